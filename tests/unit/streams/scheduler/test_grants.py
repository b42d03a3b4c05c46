"""Grants in the turn that folds the submission: the job fold's shell, its timers and its admission together."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from backstop.runtime.records import Record
from schemas.base import Message
from schemas.codec import encode
from schemas.commands import CreateResponse
from schemas.jobs import JobAdmitted, Turn
from schemas.results import JobResult
from streams.agents.fold_shell import FoldShell
from streams.early_creates import EarlyCreates
from streams.fold.batch import JOB_FOLD
from streams.policy.admission import Admission
from streams.policy.limits import read_rules
from streams.scheduler.admissions import Admissions
from streams.scheduler.due import DueIndex
from streams.scheduler.grants import FRESH_MS, GrantsAtOnce
from streams.scheduler.job_timers import JobTimers
from streams.scheduler.paused_jobs import NoPauses, PauseGates
from streams.scheduler.service import Scheduler
from streams.workers.lanes import Lanes
from tests.support.builders import MODEL, T0, cancel_requested, submitted
from tests.support.memory_publisher import MemoryPublisher

FAR = '[{"concurrent": 1000}]'
ONE = '[{"concurrent": 1}]'
WAITS = Turn(waits=True)


class Paused(NoPauses):
    def gates(self, model: str, tenant: str, tags: tuple[str, ...]) -> tuple[str, ...]:
        return ("pause_1",)

    def release(self, pause_id: str, now_ms: int) -> int:
        return 1_000


class Rows:
    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def partitions(self) -> set[int]:
        return {0}

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.rows.items())

    def chunk(self, partition: int, after: bytes | None, rows_max: int) -> list[tuple[bytes, bytes]]:
        return []

    async def put(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        self.rows.update({key: row for key, row in rows.items() if row is not None})


class NoResults:
    async def publish(self, partition: int, results: Sequence[JobResult]) -> None:
        """They are not looked at."""


class Rig:
    """One partition of `jobs`. What the shell and the scheduler write into it comes back with `deliver`."""

    def __init__(self, limits: str, *, performs: bool = True, pauses: PauseGates | None = None) -> None:
        self.now_ms = T0 + 60_000
        clock = lambda: self.now_ms  # noqa: E731
        self.publisher, self.rows, self.index = MemoryPublisher(), Rows(), DueIndex(clock)
        self.index.own([0])
        self.admission = Admission(read_rules(limits), "a")
        self.lanes = Lanes(clock)
        admissions = Admissions(self.admission, clock, 1)
        admissions.own([0])
        self.creates = EarlyCreates()
        self.creates.performs = lambda _partition: performs
        timers = JobTimers(self.index, self.rows.get, self.lanes.release, clock, self.admission, pauses)
        self.shell = FoldShell(
            JOB_FOLD, rows=self.rows, publisher=self.publisher, results=NoResults(), index=self.index, now_ms=clock,
            taken=admissions.taken,
        )  # fmt: skip
        self.shell.grants = GrantsAtOnce(timers, self.creates, clock)
        self.scheduler = Scheduler(
            JOB_FOLD, index=self.index, rows=self.rows, make_timer=timers, publisher=self.publisher, now_ms=clock,
            let_go=timers.let_go,
        )  # fmt: skip
        self._offset = 0
        self._seen = 0

    async def take(self, *facts: Message, lag_ms: int = 0) -> list[Message]:
        """What is written when the fold has taken these facts."""
        before = len(self.publisher.landed)
        records = [self._record(fact, self.now_ms - lag_ms) for fact in facts]
        await self.shell.take(0, records)
        return self.publisher.landed[before:]

    async def tick(self) -> list[Message]:
        before = len(self.publisher.landed)
        await self.scheduler.tick()
        return self.publisher.landed[before:]

    def in_flight(self) -> int:
        ((_, limiter),) = self.admission.limiters(MODEL)
        return limiter.in_flight

    def _record(self, fact: Message, at_ms: int) -> Record:
        self._offset += 1
        return Record("jobs", 0, self._offset, at_ms, fact.key.encode(), encode(fact), ())


def kinds(messages: Sequence[Message]) -> list[type[Any]]:
    return [type(message) for message in messages]


def job(name: str, **changes: Any) -> Message:
    return submitted(job_id=name, **{"turn": WAITS, "at_ms": T0 + 60_000, "deadline_at_ms": T0 + 3_600_000, **changes})


def test_where_the_lane_is_open_grant_and_command_are_written_in_the_turn_of_the_submission() -> None:
    async def story() -> None:
        rig = Rig(FAR)
        command, grant = await rig.take(job("a"))
        assert isinstance(command, CreateResponse)
        assert isinstance(grant, JobAdmitted)
        assert (command.beside_grant, command.at_ms, grant.waited_for) == (True, grant.at_ms, "turn")
        assert await rig.tick() == []  # It waits for nothing.
        rig.creates.written(rig._record(command, T0))
        assert await rig.take(grant) == []  # The command of its fold is there.
        assert rig.in_flight() == 1

    asyncio.run(story())


def test_the_fold_of_the_grant_writes_the_command_where_it_was_not_acknowledged() -> None:
    async def story() -> None:
        rig = Rig(FAR)
        command, grant = await rig.take(job("a"))
        (again,) = await rig.take(grant)
        assert isinstance(again, CreateResponse)
        assert (again.id, again.beside_grant) == (command.id, None)

    asyncio.run(story())


@pytest.mark.parametrize(("performs", "lag_ms"), [(False, 0), (True, FRESH_MS + 1)], ids=["another submitter", "a lag"])
def test_where_an_early_command_gains_nothing_the_grant_goes_alone(lag_ms: int, *, performs: bool) -> None:
    async def story() -> None:
        rig = Rig(FAR, performs=performs)
        assert kinds(await rig.take(job("a"), lag_ms=lag_ms)) == [JobAdmitted]

    asyncio.run(story())


def test_a_job_without_room_waits_in_its_queue_and_is_not_overtaken() -> None:
    async def story() -> None:
        rig = Rig(ONE)
        first = await rig.take(job("a"), job("b"), job("c"))
        assert [message.key for message in first] == ["a", "a"]
        assert await rig.take(job("d")) == []
        assert await rig.tick() == []
        assert await rig.take(first[1], cancel_requested(rig.now_ms, job_id="a"))  # Its attempt is over.
        rig.now_ms += 1_000
        assert [message.key for message in await rig.tick()] == ["b"]

    asyncio.run(story())


def test_what_holds_a_job_back_holds_its_grant_back() -> None:
    async def story() -> None:
        assert await Rig(FAR, pauses=Paused()).take(job("a")) == []
        rig = Rig(FAR)
        assert await rig.take(job("later", turn=Turn(waits=True, not_before_ms=T0 + 90_000))) == []
        assert kinds(await rig.take(job("cancelled"), cancel_requested(rig.now_ms, job_id="cancelled"))) == []
        rig.lanes.failed(MODEL, "c1", "account", "invalid_api_key")
        assert await rig.take(job("a")) == []

    asyncio.run(story())


def test_a_reservation_is_given_back_once_where_the_grant_comes_too_late() -> None:
    async def story() -> None:
        rig = Rig(ONE)
        _, grant = await rig.take(job("a"))
        assert rig.in_flight() == 1
        await rig.take(cancel_requested(rig.now_ms, job_id="a"))
        assert await rig.take(grant) == []
        assert rig.in_flight() == 0

    asyncio.run(story())
