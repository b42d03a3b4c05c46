"""Jobs whose priority or deadline was changed while they wait: queue and timers follow, and none is forgotten."""

import asyncio
from collections.abc import Sequence
from typing import Any

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.records import Record
from schemas.base import Message
from schemas.codec import encode
from schemas.jobs import JobAdmitted, JobFoundTooLate, JobTimerFired, Turn
from streams.fold.batch import JOB_FOLD, fold_batch
from streams.policy.admission import Admission
from streams.policy.limits import read_rules
from streams.scheduler.admissions import Admissions
from streams.scheduler.due import DueIndex
from streams.scheduler.job_timers import JobTimers
from streams.scheduler.service import Scheduler
from tests.support.builders import DEADLINE, MODEL, T0, job_changed, submitted

ONE_AT_A_TIME = '[{"concurrent": 1}]'


class Rig:
    """A fold, its rows, and the scheduler over them: what is published stands on the log and is folded when told to."""

    def __init__(self, limits: str) -> None:
        self.now_ms = T0
        self.log: list[Message] = []
        self.rows: dict[bytes, bytes] = {}
        self.away = False
        self.meanwhile: list[Message] = []
        """Folded while the next timers are published."""
        self.index = DueIndex(self.clock, ahead_ms=10 * DEADLINE)
        self.index.own([0])
        self.admission = Admission(read_rules(limits), "a")
        self.watch = Admissions(self.admission, self.clock, 1)
        timers = JobTimers(self.index, lambda _, key: self.rows.get(key), lambda _: 0, self.clock, self.admission)
        self.scheduler = Scheduler(
            JOB_FOLD, index=self.index, make_timer=timers, publisher=self, now_ms=self.clock, let_go=timers.let_go,
            rows=self,  # type: ignore[arg-type]  # has what a scheduler reads
        )  # fmt: skip

    def clock(self) -> int:
        return self.now_ms

    def partitions(self) -> set[int]:
        return {0}

    def get(self, _partition: int, key: bytes) -> bytes | None:
        return self.rows.get(key)

    async def publish(self, messages: Sequence[Message], timeout_s: float | None = None) -> None:
        if self.away:
            raise BrokerUnavailableError("away")
        now, self.meanwhile = self.meanwhile, []
        self.fold(*now)
        self.fold(*messages)

    def fold(self, *facts: Message) -> None:
        """As the shell does: rows, then those that watch, then due times."""
        if not facts:
            return
        begin = len(self.log)
        self.log += facts
        records = [
            Record("jobs", 0, begin + at, fact.at_ms, fact.key.encode(), encode(fact), ())
            for at, fact in enumerate(facts)
        ]
        folded: Any = fold_batch(JOB_FOLD, self.rows.get, records)
        assert not folded.poisons
        self.rows |= folded.rows
        self.watch.taken(0, folded)
        for key, due_ms in folded.dues_ms.items():
            self.index.put(0, key, due_ms)

    def tick(self, now_ms: int) -> list[Message]:
        self.now_ms = now_ms
        before = len(self.log)
        asyncio.run(self.scheduler.tick())
        return self.log[before:]

    def jobs(self, *names: str, at_ms: int = T0, **changes: Any) -> None:
        for name in names:
            self.fold(submitted(at_ms, job_id=name, turn=Turn(waits=True), **changes))

    def wait_behind_one(self, *names: str, **changes: Any) -> None:
        """`first` runs, and these jobs wait."""
        self.jobs("first")
        self.tick(T0)
        self.jobs(*names, **changes)
        assert self.tick(T0 + 1) == []

    def next_of(self, now_ms: int) -> str:
        """The job that goes when there is room for one."""
        for key in list(self.admission._held.get(0, {})):
            self.admission.ended((0, key), None, now_ms)
        admitted = [fact.job_id for fact in self.tick(now_ms + 600) if isinstance(fact, JobAdmitted)]
        assert len(admitted) == 1, admitted
        return admitted[0]


def changed(name: str, at_ms: int = T0 + 100, **changes: Any) -> Message:
    return job_changed(at_ms, job_id=name, **changes)


def slow_model(rig: Rig) -> None:
    """Nine of ten runs take a minute at least."""
    for _ in range(40):
        rig.admission.run_times.learn(MODEL, 60_000)


def test_a_job_of_another_priority_waits_in_that_class() -> None:
    rig = Rig(ONE_AT_A_TIME)
    rig.wait_behind_one("a", "b", "c")
    rig.fold(changed("c", priority="interactive"), changed("a", priority="bulk"))
    assert rig.tick(T0 + 200) == []
    assert [rig.next_of(T0 + ms) for ms in (1_000, 2_000, 3_000)] == ["c", "b", "a"]


def test_a_job_with_another_deadline_keeps_its_place_unless_the_new_one_is_near() -> None:
    rig = Rig(ONE_AT_A_TIME)
    slow_model(rig)
    rig.wait_behind_one("a", "b", "c", "d")
    rig.fold(changed("a", deadline_at_ms=2 * DEADLINE), changed("c", deadline_at_ms=T0 + 100_000))
    rig.tick(T0 + 200)
    assert [rig.next_of(T0 + ms) for ms in (1_000, 2_000, 3_000)] == ["c", "a", "b"]


def test_the_deadline_ends_a_waiting_job_at_its_new_time_and_not_at_the_old_one() -> None:
    rig = Rig(ONE_AT_A_TIME)
    rig.wait_behind_one("a", "b")
    rig.fold(changed("a", deadline_at_ms=T0 + 50_000), changed("b", deadline_at_ms=2 * DEADLINE))
    rig.tick(T0 + 200)
    assert rig.tick(T0 + 49_999) == []
    (ended,) = rig.tick(T0 + 50_000)
    assert (ended.key, type(ended)) == ("a", JobTimerFired)
    rig.fold(changed("first", deadline_at_ms=3 * DEADLINE))
    assert [fact for fact in rig.tick(DEADLINE) if fact.key == "b"] == []
    (ended,) = [fact for fact in rig.tick(2 * DEADLINE) if fact.key == "b"]
    assert isinstance(ended, JobTimerFired)


def test_a_change_that_is_folded_while_the_finding_is_published_leaves_the_job_in_its_queue() -> None:
    rig = Rig(ONE_AT_A_TIME)
    slow_model(rig)
    rig.wait_behind_one("a")
    rig.meanwhile = [changed("a", DEADLINE - 59_999, deadline_at_ms=2 * DEADLINE)]
    assert JobFoundTooLate in map(type, rig.tick(DEADLINE - 59_999))
    rig.fold(changed("first", DEADLINE, deadline_at_ms=3 * DEADLINE))
    assert rig.next_of(DEADLINE + 1_000) == "a"


def test_a_deadline_that_is_shortened_while_the_grant_is_published_still_ends_the_job() -> None:
    rig = Rig(ONE_AT_A_TIME)
    rig.jobs("a")
    rig.meanwhile = [changed("a", T0 - 1, deadline_at_ms=T0)]
    rig.tick(T0)
    (ended,) = rig.tick(T0 + 20)
    assert isinstance(ended, JobTimerFired)
    assert b'"finished"' in rig.rows[b"a"]


def test_a_timer_that_the_log_did_not_take_is_written_again() -> None:
    rig = Rig("")
    rig.jobs("a")
    rig.away = True
    assert rig.tick(T0) == []
    rig.away = False
    assert [fact.key for fact in rig.tick(T0 + 20)] == ["a"]
    assert rig.tick(T0 + 40) == []
