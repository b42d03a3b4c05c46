"""The states of responses: queued → in_progress → an end; deleted, expired, stuck, forgotten.

The ledger `truth` gets a line for each change before the change is visible to clients.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

from backstop.simulator.chance import Chance
from backstop.simulator.clock import Clock, Timers
from backstop.simulator.config import Profile
from backstop.simulator.ids import USABLE_ID_FORMS, hex_id, response_id
from backstop.simulator.ledgers import Ledgers
from backstop.simulator.objects import tier_used, total_tokens, usage
from backstop.simulator.records import CreateRequest, Ending, JobTallies, RunPlan, Stored
from backstop.simulator.webhooks import WebhookSender

KEPT_BYTES_MAX: Final = 512 << 20
Fate = Ending | Literal["on", "stuck"]
_PLATFORM_FAILURE: Final = Ending("failed", "server_error", with_usage=False)
_FATES: Final[dict[str, Fate]] = {"on": "on", "stuck": "stuck", "fail": _PLATFORM_FAILURE}


class ResponseRuns:
    """All responses in memory. `runs` is the effect of a platform outage on runs that end now."""

    def __init__(
        self,
        profile: Profile,
        chance: Chance,
        clock: Clock,
        timers: Timers,
        webhooks: WebhookSender,
        ledgers: Ledgers,
        tallies: JobTallies,
    ) -> None:
        self.profile = profile
        # Returns the end that an incident gives to a run that ends now; None = none.
        self.fate: Callable[[Stored], Fate | None] = lambda _: None
        self.cost: Counter[str] = Counter()
        self._chance = chance
        self.runs: Literal["on", "fail", "stuck"] = "on"
        self.open = 0
        self.open_of: Counter[str] = Counter()
        self._talking: Counter[tuple[int, str]] = Counter()
        self.ends: Counter[str] = Counter()
        self._clock = clock
        self._timers = timers
        self._webhooks = webhooks
        self._ledgers = ledgers
        self._tallies = tallies
        self._all: dict[str, Stored] = {}
        self._ended: deque[str] = deque()
        self._kept_bytes = 0
        self._by_idempotency_key: dict[tuple[int, str], str] = {}

    def __len__(self) -> int:
        return len(self._all)

    def accept(self, request: CreateRequest, plan: RunPlan, key: str, hide_s: float) -> Stored:
        """Record a new response as queued and start its timers. Polls don't find it for `hide_s`."""
        now_s, now_ms = self._clock.now_s(), self._clock.wall_ms()
        short = not request.store
        retention_s = self.profile.retention_short_s if short else self.profile.retention_s
        stored = Stored(
            id=self._new_id(request, key),
            message_id=hex_id("msg"),
            key=key,
            request=request,
            plan=plan,
            created_at_s=now_ms // 1000,
            expires_at_s=now_s + self._clock.real_s(retention_s),
            hidden_until_s=now_s + self._clock.real_s(hide_s) if hide_s else 0.0,
        )
        self._all[stored.id] = stored
        if request.idempotency_key is not None:
            self._by_idempotency_key[(request.project, request.idempotency_key)] = stored.id
            if len(self._by_idempotency_key) > self.profile.responses_max:
                del self._by_idempotency_key[next(iter(self._by_idempotency_key))]
        self.open += 1
        self.open_of[request.model] += 1
        if request.conversation is not None:
            self._talking[(request.project, request.conversation)] += 1
        self._truth(stored, "queued")
        self._kept_bytes += request.kept_bytes
        self._make_room()
        if plan.queue_s is not None:
            self._timers.after(self._clock.real_s(plan.queue_s), self._begin, stored, stored.epoch)
        return stored

    def _new_id(self, request: CreateRequest, key: str) -> str:
        form = request.id_form
        if form == "any":
            form = USABLE_ID_FORMS[int(self._chance.unit("id", key) * len(USABLE_ID_FORMS))]
        found = response_id(form)
        while found in self._all:
            found = response_id(form)
        return found

    def is_talking(self, request: CreateRequest) -> bool:
        """Whether an open response has the conversation of this request."""
        return request.conversation is not None and (request.project, request.conversation) in self._talking

    def find(self, response: str, project: int) -> Stored | None:
        """The project's response, if it exists. A response past its retention is removed here."""
        stored = self._all.get(response)
        if stored is None or stored.request.project != project:
            return None
        if self._clock.now_s() >= stored.expires_at_s:
            self._remove(stored, "expired")
            return None
        return stored

    def by_idempotency_key(self, key: str, project: int) -> Stored | None:
        """The project's newest existing response that was created with this `Idempotency-Key`."""
        response = self._by_idempotency_key.get((project, key))
        return None if response is None else self.find(response, project)

    def get(self, response: str) -> Stored | None:
        """The response of any project and age. For the controls."""
        return self._all.get(response)

    def end_now(self, stored: Stored, ending: Ending, first_try: asyncio.Event | None = None) -> None:
        """End an open response now; `first_try` is set after the first try of its webhook."""
        self._finish(stored, ending, first_try)

    def cancel(self, stored: Stored) -> None:
        """Cancel an open response."""
        self._finish(stored, Ending("cancelled", with_usage=False))

    def complete_later(self, stored: Stored, after_s: float) -> None:
        """Complete a cancelled response after all, with another webhook."""
        self._timers.after(self._clock.real_s(after_s), self._resurrect, stored, stored.epoch)

    def delete(self, stored: Stored) -> None:
        """Remove the response; an open one stops to run."""
        self._remove(stored, "deleted")

    def strand_all(self, share: float, purpose: str) -> int:
        """Make this share of the open responses stuck for ever, as a restart might; returns their number."""
        is_struck = self._chance.unit
        stranded = [each for each in self._all.values() if each.is_open and is_struck(purpose, each.key) < share]
        for stored in stranded:
            self._strand(stored)
        return len(stranded)

    def _begin(self, stored: Stored, epoch: int) -> None:
        if stored.epoch != epoch or not stored.is_open:
            return
        stored.status = "in_progress"
        stored.was_running = True
        stored.began_at_s = self._clock.now_s()
        self._truth(stored, "in_progress")
        stored.wake()
        if stored.plan.run_s is not None:
            self._timers.after(self._clock.real_s(stored.plan.run_s), self._end, stored, epoch)

    def _end(self, stored: Stored, epoch: int) -> None:
        if stored.epoch != epoch or not stored.is_open:
            return
        fate = self.fate(stored) or _FATES[self.runs]
        if fate == "stuck":
            self._strand(stored)
        else:
            self._finish(stored, stored.plan.ending if fate == "on" else fate)

    def _resurrect(self, stored: Stored, epoch: int) -> None:
        if stored.epoch == epoch and self._all.get(stored.id) is stored:
            self._finish(stored, Ending())

    def _finish(self, stored: Stored, ending: Ending, first_try: asyncio.Event | None = None) -> None:
        if stored.is_open:
            self._no_longer_open(stored)
        stored.epoch += 1
        stored.status = ending.status
        stored.ending = ending
        stored.ended_at_s, stored.ended_at_ms = self._clock.now_s(), self._clock.wall_ms()
        if stored.plan.expires_after_end_s is not None:
            stored.expires_at_s = self._clock.now_s() + self._clock.real_s(stored.plan.expires_after_end_s)
        self.ends[ending.status] += 1
        self._truth(stored, ending.status, ending.code, ending.reason)
        self._account(stored)
        self._ended.append(stored.id)
        if len(self._ended) > self.profile.ended_max:
            self._forget(self._ended.popleft())
        # A server without background mode has no webhooks either.
        if stored.request.background and stored.plan.shown.background == "as_asked":
            self._webhooks.announce(stored, first_try)
        stored.wake()

    def _account(self, stored: Stored) -> None:
        names = stored.names()
        wasted = stored.status != "completed"
        cost = _cost(stored)
        self.cost[cost] += 1
        paid_before = 0
        if names["job"] is not None:
            tally = self._tallies.of(names["job"])
            paid_before = tally.paid
            tally.paid += cost != "none"
            self.cost["paid_again"] += cost != "none" and paid_before > 0
            if not wasted and tally.winner is None:
                tally.winner = stored.id
            wasted = wasted or tally.winner != stored.id
        self._ledgers.tokens.write(
            **names,
            tenant=stored.request.owner["tenant"],
            model=stored.request.model,
            status=stored.status,
            tokens=total_tokens(stored),
            usage=usage(stored),
            tier=tier_used(stored),
            window=stored.request.window,
            prompt_cache_key=stored.request.body.get("prompt_cache_key"),
            cost=cost,
            paid_before=paid_before,
            wasted=wasted,
        )

    def _strand(self, stored: Stored) -> None:
        stored.epoch += 1
        self._truth(stored, "stuck")

    def _make_room(self) -> None:
        """Drop ended responses, then open ones, oldest first, until the limits hold. The newest one always stays."""
        while len(self._all) > self.profile.responses_max or (self._kept_bytes > KEPT_BYTES_MAX and len(self._all) > 1):
            self._forget(self._ended.popleft() if self._ended else next(iter(self._all)))

    def _forget(self, response: str) -> None:
        stored = self._all.get(response)
        if stored is not None:
            self._remove(stored, "forgotten")

    def _remove(self, stored: Stored, state: str) -> None:
        if stored.is_open:
            self._no_longer_open(stored)
        stored.epoch += 1
        stored.plan = replace(stored.plan, queue_s=None, run_s=None)
        if self._all.pop(stored.id, None) is not None:
            self._kept_bytes -= stored.request.kept_bytes
        self._truth(stored, state)
        stored.wake()

    def _no_longer_open(self, stored: Stored) -> None:
        self.open -= 1
        model = stored.request.model
        self.open_of[model] -= 1
        if not self.open_of[model]:
            del self.open_of[model]
        conversation = stored.request.conversation
        if conversation is not None:
            key = stored.request.project, conversation
            self._talking[key] -= 1
            if not self._talking[key]:
                del self._talking[key]

    def _truth(self, stored: Stored, state: str, code: str | None = None, reason: str | None = None) -> None:
        self._ledgers.truth.write(**stored.names(), state=state, code=code, reason=reason)


def _cost(stored: Stored) -> Literal["usage", "none", "unknown"]:
    """What is known of an ended response's cost: its usage, no cost, or a run without usage."""
    assert stored.ending is not None
    if stored.ending.has_usage:
        return "usage"
    # A response that was cancelled during its run, or completed without usage, has cost something.
    return "unknown" if stored.was_running and stored.status in ("cancelled", "completed") else "none"
