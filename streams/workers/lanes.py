"""The lanes of one process: outcomes of creates here and at other workers, and whether the next create may be sent.

A create passes two lanes: that of its account (`ALL_MODELS`), which only a condition of the account closes, and that of
its model. While the first is closed, one create at a time probes it for all models.

The state is in memory; its loss costs a probe. It is the fold of the facts read from `lanes`, and then of own facts
that are not read back yet. So its own outcome counts at once, and in the end all workers agree with the log. Without a
board (`join`), or while the board does not answer, only own facts count.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from backstop.runtime.process.clock import NowMs
from schemas.base import Cause
from schemas.lanes import (
    ALL_MODELS,
    CODE_CHARS_MAX,
    WORDS_CHARS_MAX,
    CreateFact,
    CreateFailed,
    CreateServed,
    ProbeClaimed,
    lane_name,
)
from streams.policy.lanes import (
    CANDIDATE_WAIT_MS,
    PROBE_ANSWER_MS_MAX,
    PROBE_REPORT_MS,
    WHOLE,
    Claim,
    Closed,
    Go,
    Held,
    Lane,
    ReleaseProgress,
    Share,
    granted,
    held,
    release,
    send,
    take,
)
from streams.provider import account_name

log = structlog.get_logger()

LANES_MAX = 1_000
"""Callers choose the names of models. Beyond this many, a lane is forgotten, an open one first."""

UNREAD_MAX = 64
"""Own facts of a lane that are not read back; beyond it the oldest counts as read."""

CLAIM_WAIT_S = 5.0
"""A claim that is not read back within this time counts, so that a slow broker stops no probe."""

RETURNED_WAIT_MS = 2 * CANDIDATE_WAIT_MS
"""A model that gave the account's probe back lets the other models go first for this time."""

ASK_AGAIN_MS_MAX = 1_000
"""Longest interval at which waiting jobs ask: another worker may open the lane meanwhile."""

Changed = Callable[[str, Lane], None]
Write = Callable[[CreateFact], None]


@dataclass(slots=True)
class Lanes:
    """Lanes by model, and the account's. All creates of a process go to one account."""

    now_ms: NowMs
    changed: Changed = lambda _model, _lane: None
    """Called when a lane closes or opens."""
    account: str = account_name()
    share: Share = WHOLE
    """This worker's share of the waiting jobs; changes with its partitions."""
    _write: Write | None = field(default=None, init=False)
    _believed: dict[str, Lane] = field(default_factory=dict, init=False)
    _read: dict[str, Lane] = field(default_factory=dict, init=False)
    """The fold of the facts read from the log."""
    _unread: dict[str, dict[str, tuple[CreateFact, int]]] = field(default_factory=dict, init=False)
    """By model and id: own facts that are not read back, oldest first, each with its time."""
    _releasing: dict[str, ReleaseProgress] = field(default_factory=dict, init=False)
    _claims: dict[str, tuple[str, asyncio.Event]] = field(default_factory=dict, init=False)
    """By model: the id of this process's claim that is not read back, and the event set when it is."""
    _served: set[str] = field(default_factory=set, init=False)
    _returned: set[str] = field(default_factory=set, init=False)
    """Models whose create had the account's probe and said nothing of the account, since a model did so twice."""

    def join(self, write: Write) -> None:
        """Publish own facts through `write` from now on.

        Each fact must come back to `read`: in the order of the log, or when it could not be written.
        """
        self._write = write

    async def send(self, model: str, command_id: str, timeout_ms: int = PROBE_ANSWER_MS_MAX) -> Go | Held:
        """Whether this create may be sent now. A probe waits until its claim is read back, at most `CLAIM_WAIT_S`.

        :param timeout_ms: of the create: a probe without an outcome is given up soon after it.
        """
        its_own = send(self.of(model), self.now_ms())
        if isinstance(its_own, Held):
            return its_own
        of_account = await self._passed(ALL_MODELS, command_id, timeout_ms)
        if isinstance(of_account, Held):
            return of_account
        its_own = await self._passed(model, command_id, timeout_ms)
        if isinstance(its_own, Held):
            self._return(model, command_id, "not_sent")
            return its_own
        return Go(probe=of_account.probe or its_own.probe)

    async def _passed(self, model: str, command_id: str, timeout_ms: int) -> Go | Held:
        asked = self.ask(model, command_id, timeout_ms)
        if not isinstance(asked, ProbeClaimed):
            return asked
        _, read_back = self._claims[model]
        try:
            async with asyncio.timeout(CLAIM_WAIT_S):
                await read_back.wait()
        except TimeoutError:
            log.warning("lane_claim_not_read_back", model=lane_name(model), wait_s=CLAIM_WAIT_S)
            for fact in [*(fact for fact, _ in self._unread.get(model, {}).values()), asked]:
                self.read(fact, self.now_ms())
        finally:
            self._claims.pop(model, None)
        return self.verdict(model, command_id)

    def ask(
        self, model: str, command_id: str, timeout_ms: int = PROBE_ANSWER_MS_MAX
    ) -> Go | Held | ProbeClaimed:  # fmt: skip
        """As `send`, without the wait. If it returns a claim, `verdict` decides after `read` was called with it."""
        now_ms, lane = self.now_ms(), self.of(model)
        asked = send(lane, now_ms)
        if not isinstance(asked, Claim):
            return asked
        if model in self._claims and lane.closed is not None:
            return held(lane.closed, now_ms)
        claim = ProbeClaimed(
            id=_id_of(model, f"{command_id}/claim/{asked.turn}"), at_ms=now_ms, account=self.account, model=model,
            turn=asked.turn, command_id=command_id, answer_ms=timeout_ms + PROBE_REPORT_MS,
        )  # fmt: skip
        if self._write is None:
            self.read(claim, now_ms)
            return self.verdict(model, command_id)
        self._claims[model] = (claim.id, asyncio.Event())
        self._write(claim)
        return claim

    def verdict(self, model: str, command_id: str) -> Go | Held:
        return granted(self.of(model), command_id, self.now_ms())

    def release(self, model: str) -> int:
        """0 if a waiting job may begin its attempt, else the milliseconds after which to ask again."""
        progress = dict[str, ReleaseProgress]()
        for name in (model, ALL_MODELS):
            lane = self._believed.get(name)
            if lane is None:
                continue
            before = self._releasing.get(name, ReleaseProgress())
            progress[name], wait_ms = release(lane, before, self.now_ms(), self.share)
            if name == ALL_MODELS and lane.closed is not None and model in self._returned:
                wait_ms = max(wait_ms, lane.closed.due_ms() + RETURNED_WAIT_MS - self.now_ms())
            if wait_ms > 0:
                return min(wait_ms, ASK_AGAIN_MS_MAX)
        self._releasing |= progress
        return 0

    def succeeded(self, model: str, command_id: str) -> None:
        if len(self._served) < LANES_MAX:
            self._served.add(model)
        for name in (model, ALL_MODELS):
            if name in self._believed:
                self._tell(CreateServed(**self._about(name, f"{command_id}/served")))

    def failed(
        self, model: str, command_id: str, cause: Cause, code: str, message: str = "", told_ms: int = 0, *,
        account_wide: bool = False,
    ) -> None:  # fmt: skip
        """:param account_wide: the create of any other model would have been refused as well."""
        closes, other = (ALL_MODELS, model) if account_wide else (model, ALL_MODELS)
        self._fail(closes, command_id, command_id, cause, code, message, told_ms)
        if other in self._believed:
            # It may be a probe of the other lane, too. A refusal for what is asked shows that the account serves.
            serves = cause in ("never", "later", "account") and not account_wide
            if serves or account_wide:
                self._fail(other, command_id, command_id, "later" if serves else "odd", code, "", 0)
            else:
                self._return(model, command_id, code)

    def ended(
        self, model: str, response_id: str, cause: Cause, code: str, message: str = "", *, account_wide: bool = False
    ) -> None:  # fmt: skip
        """A response ended with `cause`; only a condition of the account counts.

        `model` may be a dated version of the lane's model.
        """
        if cause == "account":
            named = max((lane for lane in self._served if model.startswith(lane)), key=len, default=None)
            if named is not None:
                closes = ALL_MODELS if account_wide else named
                self._fail(closes, response_id, "", cause, code, message, 0)

    def served(self, model: str) -> bool:
        """Whether a create of the model was accepted since the process started."""
        return model in self._served

    def of(self, model: str) -> Lane:
        return self._believed.get(model, Lane())

    def closed(self, model: str) -> Closed | None:
        """What holds creates of the model: its own lane, or its account's."""
        return self.of(model).closed or self.of(ALL_MODELS).closed

    def troubled(self, model: str) -> bool:
        """Whether the lane is closed, or its last create failed."""
        return self.closed(model) is not None or self.of(model).failures > 0

    def all(self) -> dict[str, Lane]:
        return dict(self._believed)

    def read(self, fact: CreateFact, at_ms: int) -> None:
        """Take the next fact of the log, or an own fact that was not written. `at_ms` is the local time of reading."""
        if fact.account != self.account:
            return
        _, at_ms = self._unread.get(fact.model, {}).pop(fact.id, (fact, at_ms))
        self._read[fact.model] = take(self._read.get(fact.model, Lane()), fact, at_ms)
        self._believe(fact.model)
        claim_id, read_back = self._claims.get(fact.model, ("", None))
        if read_back is not None and claim_id == fact.id:
            read_back.set()

    def _fail(
        self, model: str, caused_by: str, command_id: str, cause: Cause, code: str, message: str, told_ms: int
    ) -> None:
        # Only messages about the account go to other workers and logs: other messages may repeat parts of a request.
        shown = message[:WORDS_CHARS_MAX] if cause == "account" else ""
        self._tell(
            CreateFailed(
                **self._about(model, f"{caused_by}/failed"), command_id=command_id, cause=cause,
                code=code[:CODE_CHARS_MAX], message=shown, told_ms=max(0, told_ms),
            )
        )  # fmt: skip

    def _return(self, model: str, command_id: str, code: str) -> None:
        """The create says nothing of the account. If it was the account's probe, it gives the turn back."""
        closed = self.of(ALL_MODELS).closed
        if closed is not None and closed.probing is not None and closed.probing.command_id == command_id:
            if model in self._returned or len(self._returned) >= LANES_MAX:
                self._returned.clear()  # All other models that wait had their turn.
            self._returned.add(model)
        self._fail(ALL_MODELS, command_id, command_id, "odd", code, "", 0)

    def _about(self, model: str, fact_id: str) -> dict[str, Any]:
        turn = self.of(model).turn
        named = {"id": _id_of(model, fact_id), "account": self.account, "model": model}
        return {**named, "at_ms": self.now_ms(), "turn": turn}

    def _tell(self, fact: CreateFact) -> None:
        """Fold an own fact and publish it, if it changes the lane. A lane without trouble writes nothing."""
        now_ms, lane = self.now_ms(), self.of(fact.model)
        if take(lane, fact, now_ms) == lane:
            return
        if self._write is None:
            self.read(fact, now_ms)
            return
        unread = self._unread.setdefault(fact.model, {})
        unread[fact.id] = (fact, now_ms)
        if len(unread) > UNREAD_MAX:
            oldest, _ = next(iter(unread.values()))
            self.read(oldest, now_ms)
        self._believe(fact.model)
        self._write(fact)

    def _believe(self, model: str) -> None:
        before = self.of(model)
        lane = self._read.get(model, Lane())
        for fact, at_ms in self._unread.get(model, {}).values():
            lane = take(lane, fact, at_ms)
        self._believed[model] = lane
        if (before.closed is None) != (lane.closed is None):
            self._say(model, lane)
        if lane == Lane() and not self._unread.get(model):
            self._forget(model)
        elif len(self._believed) > LANES_MAX:
            self._forget(next((name for name, each in self._believed.items() if each.closed is None), model))

    def _say(self, model: str, lane: Lane) -> None:
        if lane.closed is not None:
            why = lane.closed.why
            message = {"message": why.message} if why.message else {}
            log.error("lane_closed", model=lane_name(model), cause=why.cause, code=why.code, **message)
        else:
            log.info("lane_opened", model=lane_name(model))
            if model == ALL_MODELS:
                self._returned.clear()
        self.changed(model, lane)

    def _forget(self, model: str) -> None:
        if self.of(model).closed is not None:
            self.changed(model, Lane())
        for by_model in (self._believed, self._read, self._unread, self._releasing):
            by_model.pop(model, None)


def _id_of(model: str, fact_id: str) -> str:
    """One create may tell of its model's lane and of its account's."""
    return f"{fact_id}/account" if model == ALL_MODELS else fact_id
