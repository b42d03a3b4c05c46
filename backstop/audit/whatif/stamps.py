"""The times of polls that a what-if stamps on facts, as the workers do. Pure.

As it was: a recorded fact keeps its stamp, moved with its response; an unrecorded one is stamped by the fixed schedule
with its defaults.
"""

from dataclasses import replace
from typing import Final

from backstop.audit.whatif.policy import Polling
from schemas.base import Message
from schemas.commands import CancelResponse, RetrieveResponse
from schemas.jobs import AttemptAccepted
from schemas.responses import PollFailed, ResponseObserved, ResponseTimerFired, WebhookReceived
from streams.fold.response import ResponseState
from streams.fold.response_timer import stamped_timer
from streams.policy.polls import MISSING_AGAIN_MS, NextPoll, Webhooks
from streams.policy.seen_facts import SeenFacts

ALONE: Final = 0
"""All responses count as those of one worker."""


class Stamps:
    """Decides when each response is polled next."""

    def __init__(self, polling: Polling | None) -> None:
        self._asked = polling is not None
        self._polls: Webhooks = (polling or Polling()).webhooks()
        self._rate_per_s = (polling or Polling()).rate_max_per_s
        self._vain: dict[str, int] = {}
        self._at_ms = 0
        learned = self._polls.learned
        self._seen = None if learned is None else SeenFacts(learned, lambda: self._at_ms)

    def took(self, facts: tuple[Message, ...], at_ms: int, *, folded: bool) -> None:
        """Facts of responses came. :param folded: they changed a state, or came after an end."""
        self._at_ms = max(self._at_ms, at_ms)
        if any(isinstance(fact, WebhookReceived) for fact in facts):
            self._polls.heard()
        if self._seen is not None and folded:
            self._seen.took(ALONE, facts)

    def accepted(self, fact: AttemptAccepted, *, recorded: bool, moved_ms: int = 0) -> AttemptAccepted:
        if recorded and not self._asked:
            return fact.model_copy(update={"poll_at_ms": fact.poll_at_ms + moved_ms})
        of = tuple(fact.latency_class or ())
        first = self._next(fact.response_id, of, fact.at_ms, fact.at_ms, 0, None, control=fact.control is True)
        return fact.model_copy(update={"poll_at_ms": first.at_ms, "poll_basis": first.basis})

    def reported(
        self, command: RetrieveResponse | CancelResponse, fact: ResponseObserved | PollFailed, *, recorded: bool
    ) -> ResponseObserved | PollFailed:
        """The report of a poll or a cancel."""
        timed = command if isinstance(command, RetrieveResponse) else None
        ended = isinstance(fact, ResponseObserved) and fact.outcome not in ("running", "missing", "odd")
        if ended:
            self._vain.pop(fact.response_id, None)
        hint = self._in_vain(fact.response_id, webhook=timed is not None and timed.reason == "webhook")
        if ended and timed is not None and timed.reason == "timer" and not timed.control:
            self._polls.ended_without()
        if recorded and (not self._asked or isinstance(fact, PollFailed)):
            return fact  # A failed poll keeps its time: the provider may have told it.
        of = tuple(timed.latency_class or ()) if timed is not None else ()
        accepted_ms, polls = (timed.accepted_at_ms, timed.polls) if timed is not None else (None, 0)
        control = timed is not None and timed.control is True
        following = self._next(fact.response_id, of, accepted_ms, fact.at_ms, polls, hint, control=control)
        if isinstance(fact, ResponseObserved) and fact.outcome == "missing":
            following = replace(following, at_ms=min(following.at_ms, fact.at_ms + MISSING_AGAIN_MS))
        basis = following.basis if isinstance(fact, PollFailed) or not ended else None
        return fact.model_copy(update={"next_poll_at_ms": following.at_ms, "poll_basis": basis})

    def timer(
        self, response_id: str, state: ResponseState, due_ms: int, at_ms: int, recorded: ResponseTimerFired | None
    ) -> ResponseTimerFired:
        if recorded is not None and not self._asked:
            return recorded
        self._refresh(at_ms)
        return stamped_timer(self._polls, response_id, state, due_ms, at_ms)

    def _next(
        self, response_id: str, of: tuple[str, ...], accepted_ms: int | None, now_ms: int, polls: int,
        hint: int | None, *, control: bool,
    ) -> NextPoll:  # fmt: skip
        self._refresh(now_ms)
        return self._polls.next_poll(
            response_id=response_id, latency_class=of, accepted_at_ms=accepted_ms, now_ms=now_ms, polls=polls,
            since_hint=hint, control=control,
        )  # fmt: skip

    def _refresh(self, now_ms: int) -> None:
        learned = self._polls.learned
        self._at_ms = max(self._at_ms, now_ms)
        if learned is None or self._seen is None:
            return
        self._seen.judge(self._at_ms)
        if learned.outdated(self._at_ms):
            for _ in learned.refresh(self._at_ms, self._rate_per_s):
                pass

    def _in_vain(self, response_id: str, *, webhook: bool) -> int | None:
        """As `streams.workers.webhook_hints.Hints.in_vain`."""
        vain = 0 if webhook else self._vain.get(response_id, -2) + 1
        if vain < 0:
            return None
        self._vain[response_id] = vain
        return vain
