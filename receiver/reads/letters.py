"""The handler of `POST /v1/dead-letters/decide`. See `receiver.reads.letter_routes`.

The read model tells which dead letters are the tenant's and where they are; the records come from their topic.
"""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from backstop.audit.dead_letters import DeadLetterEntry, plan_retry, reads_now
from backstop.audit.letter_decisions import decide, put_back
from backstop.readmodel.database import Database
from backstop.readmodel.dead_letters import dead_letter_name
from backstop.readmodel.queries import DeadLetterFilter, find_dead_letters
from backstop.readmodel.rows import DeadLetterRow
from backstop.runtime.authority import key_id_now
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.http.routes import declare
from backstop.runtime.kafka.topic_reader import open_reader
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.logs import get_logger
from backstop.runtime.settings import RuntimeSettings
from receiver.bodies import read_model
from receiver.limits import Limits
from receiver.problems import unavailable
from receiver.reads import problems
from receiver.reads.letter_records import open_letters
from receiver.reads.letter_routes import (
    DECIDE,
    DecidedLetterView,
    DecideLettersBody,
    DecisionView,
    LetterDecision,
    UndecidedLetterView,
)
from receiver.reads.letter_turns import LetterTurns
from receiver.reads.overview import Rights
from receiver.reads.parameters import guarded

log = get_logger("receiver.letters")

BODY_BYTES_MAX: Final = 64 << 10
READ_TIMEOUT_S: Final = 20.0


def add_letter_routes(
    app: web.Application, settings: RuntimeSettings, database: Database, rights: Rights, now_ms: NowMs, limits: Limits
) -> None:
    """Add the decisions about dead letters to `app`."""
    declare(app, DECIDE, guarded(_LetterDecisions(settings, database, rights, now_ms, limits).answer))


@dataclass(slots=True)
class _Sorted:
    """The dead letters of a request: those that may be decided, and why not the others."""

    letters: list[DeadLetterEntry] = field(default_factory=list)
    left_out: list[UndecidedLetterView] = field(default_factory=list)

    def leave_out(self, letter_id: str, because: str) -> None:
        self.left_out.append({"id": letter_id, "because": because})


class _LetterDecisions:
    def __init__(
        self, settings: RuntimeSettings, database: Database, rights: Rights, now_ms: NowMs, limits: Limits
    ) -> None:
        self._settings = settings
        self._database = database
        self._rights = rights
        self._now_ms = now_ms
        self._limits = limits
        self._turns = LetterTurns(limits.retry_after_s)
        self._nobodys = asyncio.Lock()
        """Dead letters without a known tenant are those of all admins."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = await read_model(DecideLettersBody, request, self._limits, bytes_max=BODY_BYTES_MAX)
        wanted = DeadLetterFilter(
            self._rights.tenant_of(request), with_nobodys="admin" in self._rights.scopes_of(request), only_open=False
        )
        alone = self._nobodys if wanted.with_nobodys and asked.execute else nullcontext()
        try:
            async with self._turns.of(wanted.tenant), asyncio.timeout(READ_TIMEOUT_S + self._limits.publish_s), alone:
                return problems.answer(await self._decide(asked, wanted))
        except (BrokerUnavailableError, TimeoutError):
            raise unavailable(
                "log_unavailable", "The log did not answer in time. It is safe to send the decision again.",
                self._limits.retry_after_s,
            ) from None  # fmt: skip

    async def _decide(self, asked: DecideLettersBody, wanted: DeadLetterFilter) -> DecisionView:
        """Rows and records are read in the turn: what the turn before has decided is seen."""
        prefix = self._settings.topic_prefix
        ids = list(dict.fromkeys(asked.ids))
        rows = await self._database.read(lambda conn: find_dead_letters(conn, wanted, ids))
        found = await self._sorted(ids, {row.dead_letter_id: row for row in rows})
        can, cannot = plan_retry(found.letters, prefix)
        if asked.decision == "retry":
            for letter, because in cannot:
                found.leave_out(dead_letter_name(letter.id), because)
            chosen = [item.letter for item in can]
        else:
            chosen = found.letters
        if asked.execute and chosen:
            by, why, now_ms = asked.by or _key_name(), str(asked.why), self._now_ms()
            if asked.decision == "retry":
                await put_back(self._settings, can, by, why, now_ms, "receiver")
            else:
                await decide(self._settings, chosen, "dropped", by, why, now_ms, "receiver")
            log.info("dead_letters_decided", decision=asked.decision, count=len(chosen), by=by, key_id=key_id_now())
        topics = {item.letter.id: item.topic.removeprefix(prefix) for item in can}
        return {
            "object": "dead_letter_decision", "decision": asked.decision, "executed": asked.execute and bool(chosen),
            "data": [_shown(letter, prefix, asked.decision, topics) for letter in chosen], "left_out": found.left_out,
        }  # fmt: skip

    async def _sorted(self, ids: Sequence[str], rows: dict[str, DeadLetterRow]) -> _Sorted:
        """The records behind `ids`, in their order. The broker is asked only where there are any."""
        found = _Sorted()
        open_rows: list[DeadLetterRow] = []
        for letter_id in ids:
            row = rows.get(letter_id)
            if row is None:
                found.leave_out(letter_id, "there is no such dead letter")
            elif row.resolution is not None:
                found.leave_out(letter_id, f"it was {row.resolution} already")
            else:
                open_rows.append(row)
        if open_rows:
            async with open_reader(self._settings) as reader:
                found.letters = await open_letters(reader, open_rows, found.leave_out)
        return found


def _shown(letter: DeadLetterEntry, prefix: str, decision: LetterDecision, topics: dict[str, str]) -> DecidedLetterView:
    view: DecidedLetterView = {
        "id": dead_letter_name(letter.id), "reason": letter.letter.reason, "reads_now": reads_now(letter, prefix),
    }  # fmt: skip
    if decision == "retry":
        view["topic"] = topics[letter.id]
    return view


def _key_name() -> str:
    key_id = key_id_now()
    return "a developer" if key_id is None else f"key {key_id}"
