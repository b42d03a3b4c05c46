"""The lanes of one process: what creates met, here and at other workers, and whether the next one may go. In memory; what is lost costs a probe.

What a worker believes is the fold of what it has read of `lanes`, and of its own facts that it has not read back yet: an outcome of its own counts
at once, and in the end all workers agree with the log. Without a board (`join`), or while the board does not answer, it goes on by what it met itself.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from backstop.runtime.process.clock import NowMs
from schemas.base import Cause
from schemas.lanes import CODE_CHARS_MAX, WORDS_CHARS_MAX, CreateFailed, CreateServed, LaneFact, ProbeClaimed
from streams.policy.lanes import WHOLE, Claim, Go, Held, Lane, Pace, Share, granted, held, release, send, take
from streams.provider import account_name

log = structlog.get_logger()

LANES_MAX = 1_000
"""Models are callers' words: past this many a lane is forgotten, one that is open where there is one."""

UNREAD_MAX = 64
"""Own facts of a lane that were not read back; past it the oldest counts as read."""

CLAIM_WAIT_S = 5.0
"""A claim that was not read back for so long stands by itself, so that a broker that is slow stops no probe."""

ASK_AGAIN_MS_MAX = 1_000
"""Waiting jobs ask so often: another worker may have opened the lane meanwhile."""

Changed = Callable[[str, Lane], None]
Write = Callable[[LaneFact], None]


@dataclass(slots=True)
class Lanes:
    """By model: all creates of a process go to one account."""

    now_ms: NowMs
    changed: Changed = lambda _model, _lane: None
    """Told when a lane has closed, or opened."""
    account: str = account_name()
    share: Share = WHOLE
    """Of the waiting jobs; changes with the partitions that this worker has."""
    _write: Write | None = None
    _believed: dict[str, Lane] = field(default_factory=dict)
    _read: dict[str, Lane] = field(default_factory=dict)
    """As the log says, up to where it was read."""
    _unread: dict[str, dict[str, tuple[LaneFact, int]]] = field(default_factory=dict)
    """By model and id: own facts that were not read back, oldest first, and when they happened."""
    _paces: dict[str, Pace] = field(default_factory=dict)
    _claims: dict[str, tuple[str, asyncio.Event]] = field(default_factory=dict)
    """By model: the claim of this process that was not read back, by its id."""
    _served: set[str] = field(default_factory=set)

    def join(self, write: Write) -> None:
        """From now on tell other workers by `write`, which hands each fact to `read` later: in the log's order, or when it was not written."""
        self._write = write

    async def send(self, model: str, command_id: str) -> Go | Held:
        """May this create be sent now? A probe waits here until it has its turn, `CLAIM_WAIT_S` at most."""
        asked = self.ask(model, command_id)
        if not isinstance(asked, ProbeClaimed):
            return asked
        _, heard = self._claims[model]
        try:
            async with asyncio.timeout(CLAIM_WAIT_S):
                await heard.wait()
        except TimeoutError:
            log.warning("lane_claim_unheard", model=model, wait_s=CLAIM_WAIT_S)
            for fact in [*(fact for fact, _ in self._unread.get(model, {}).values()), asked]:
                self.read(fact, self.now_ms())
        finally:
            self._claims.pop(model, None)
        return self.verdict(model, command_id)

    def ask(self, model: str, command_id: str) -> Go | Held | ProbeClaimed:
        """As `send`, without the wait: a claim was written, and `verdict` tells once `read` was given it."""
        now_ms, lane = self.now_ms(), self.of(model)
        asked = send(lane, now_ms)
        if not isinstance(asked, Claim):
            return asked
        if model in self._claims and lane.closed is not None:
            return held(lane.closed, now_ms)
        claim = ProbeClaimed(
            id=f"{command_id}/claim/{asked.turn}", at_ms=now_ms, account=self.account, model=model, turn=asked.turn,
            command_id=command_id,
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
        """0 where a job that waits may begin its attempt, else the milliseconds after which to ask again."""
        lane = self._believed.get(model)
        if lane is None:
            return 0
        pace, wait_ms = release(lane, self._paces.get(model, Pace()), self.now_ms(), self.share)
        self._paces[model] = pace
        return min(wait_ms, ASK_AGAIN_MS_MAX)

    def succeeded(self, model: str, command_id: str) -> None:
        if len(self._served) < LANES_MAX:
            self._served.add(model)
        if model in self._believed:
            self._tell(CreateServed(id=f"{command_id}/served", **self._about(model)))

    def failed(self, model: str, command_id: str, cause: Cause, code: str, message: str = "", told_ms: int = 0) -> None:
        self._fail(model, command_id, command_id, cause, code, message, told_ms)

    def ended(self, model: str, response_id: str, cause: Cause, code: str, message: str = "") -> None:
        """A response that ran failed for a condition of the account. Its `model` may name a dated version of the lane's."""
        if cause == "account":
            named = max((lane for lane in self._served if model.startswith(lane)), key=len, default=None)
            if named is not None:
                self._fail(named, response_id, "", cause, code, message, 0)

    def served(self, model: str) -> bool:
        """Whether a create of the model was accepted since the process began."""
        return model in self._served

    def of(self, model: str) -> Lane:
        return self._believed.get(model, Lane())

    def all(self) -> dict[str, Lane]:
        return dict(self._believed)

    def read(self, fact: LaneFact, at_ms: int) -> None:
        """The next fact of the log, or one of ours that could not be written there. `at_ms`: when it was read, by our clock."""
        if fact.account != self.account:
            return
        _, at_ms = self._unread.get(fact.model, {}).pop(fact.id, (fact, at_ms))
        self._read[fact.model] = take(self._read.get(fact.model, Lane()), fact, at_ms)
        self._believe(fact.model)
        claim_id, heard = self._claims.get(fact.model, ("", None))
        if heard is not None and claim_id == fact.id:
            heard.set()

    def _fail(
        self, model: str, caused_by: str, command_id: str, cause: Cause, code: str, message: str, told_ms: int
    ) -> None:
        # Only what an account is told of itself goes to other workers and logs: other words may repeat what a request held.
        words = message[:WORDS_CHARS_MAX] if cause == "account" else ""
        self._tell(
            CreateFailed(
                id=f"{caused_by}/failed", **self._about(model), command_id=command_id, cause=cause,
                code=code[:CODE_CHARS_MAX], message=words, told_ms=max(0, told_ms),
            )
        )  # fmt: skip

    def _about(self, model: str) -> dict[str, Any]:
        return {"at_ms": self.now_ms(), "account": self.account, "model": model, "turn": self.of(model).turn}

    def _tell(self, fact: LaneFact) -> None:
        """Believe it, and tell the others where it changes the lane: a calm lane writes nothing."""
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
            words = {"message": why.message} if why.message else {}
            log.error("lane_closed", model=model, cause=why.cause, code=why.code, **words)
        else:
            log.info("lane_opened", model=model)
        self.changed(model, lane)

    def _forget(self, model: str) -> None:
        if self.of(model).closed is not None:
            self.changed(model, Lane())
        for by_model in (self._believed, self._read, self._unread, self._paces):
            by_model.pop(model, None)
