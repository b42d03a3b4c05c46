"""Jobs that wait for their lane: no record while it is closed, then each in its turn, and the deadline in any case."""

from collections.abc import Callable
from dataclasses import replace

from schemas.base import Message
from schemas.jobs import JobAdmitted, JobFoundTooLate, JobTimerFired, Turn
from schemas.results import Reason
from streams.fold import job
from streams.fold.attempts import Attempts
from streams.fold.batch import JOB_FOLD
from streams.fold.rows import encode_row
from streams.policy.admission import Admission
from streams.policy.lanes import CANDIDATE_WAIT_MS, PROBE_WAIT_MS, RAMP_FIRST
from streams.policy.limits import read_rules
from streams.scheduler.due import Due, DueIndex
from streams.scheduler.job_timers import ASK_AGAIN_MS_MAX, ROWS_A_TICK_MAX, JobTimers
from streams.workers.lanes import Lanes
from tests.support.builders import DEADLINE, MODEL, T0
from tests.unit.streams.fold.states import backing_off, finished, spec

RETRY_AT = T0 + 1_000
WHY = Reason(code="http_503")
ROW = encode_row(JOB_FOLD.encode_state(backing_off(RETRY_AT, WHY)), 7)


class Rig:
    """A lane and the timers of some jobs of one partition, at a time that the test sets."""

    def __init__(self, jobs: int, row: bytes = ROW, due_ms: int = RETRY_AT, limits: str = "") -> None:
        self.now_ms = T0
        self.rows_read = 0
        clock: Callable[[], int] = lambda: self.now_ms  # noqa: E731
        self.lanes = Lanes(clock)
        self.index = DueIndex(clock, ahead_ms=DEADLINE)
        self.index.own([0])
        self.admission = Admission(read_rules(limits), "a")
        self.timers = JobTimers(
            self.index, lambda _, key: self.read(key), self.lanes.release, clock, self.admission
        )  # fmt: skip
        self.rows = {b"job_%03d" % number: row for number in range(jobs)}
        for key in self.rows:
            self.index.put(0, key, due_ms)

    def read(self, key: bytes) -> bytes | None:
        self.rows_read += 1
        return self.rows.get(key)

    def tick(self, now_ms: int) -> list[str]:
        """The jobs whose timer fires."""
        self.now_ms = now_ms
        self.timers.let_go([0])
        fired: list[Message] = []
        for due in self.index.due(now_ms, 1_000, [0]):
            self.index.taken(due)
            timer = self.timers(due, self.rows.get(due.key), now_ms)
            if timer is not None:
                fired.append(timer)
        assert all(not isinstance(timer, JobTimerFired) or timer.due_ms in (RETRY_AT, T0) for timer in fired)
        self.fired = fired
        return [timer.key for timer in fired]

    def end(self, *keys: bytes) -> None:
        """The jobs end while they are deferred."""
        over = finished("cancelled", RETRY_AT + 5)
        for key in keys:
            self.rows[key] = encode_row(JOB_FOLD.encode_state(over), 8)
            self.index.put(0, key, job.due_ms(over))

    def close(self) -> None:
        self.lanes.failed(MODEL, "c1", "account", "invalid_api_key")


def test_an_open_lane_holds_nothing() -> None:
    rig = Rig(3)
    assert len(rig.tick(RETRY_AT)) == 3


def test_a_closed_lane_holds_all_but_one_for_each_probe() -> None:
    rig = Rig(100)
    rig.now_ms = RETRY_AT
    rig.close()
    assert rig.tick(RETRY_AT) == []
    assert len(rig.timers) == 100
    assert rig.tick(RETRY_AT + PROBE_WAIT_MS) == ["job_000"]
    assert rig.tick(RETRY_AT + PROBE_WAIT_MS + 1) == []
    assert rig.tick(RETRY_AT + PROBE_WAIT_MS + CANDIDATE_WAIT_MS) == ["job_001"]


def test_an_opened_lane_lets_them_go_in_turn_along_the_ramp() -> None:
    rig = Rig(100)
    rig.now_ms = RETRY_AT
    rig.close()
    rig.tick(RETRY_AT)
    rig.lanes.succeeded(MODEL, "c2")
    begun = rig.tick(RETRY_AT + PROBE_WAIT_MS)
    assert RAMP_FIRST <= len(begun) < 100
    assert begun == sorted(begun)
    after_ms = PROBE_WAIT_MS
    while len(begun) < 100:
        after_ms += 20
        begun += rig.tick(RETRY_AT + after_ms)
    assert after_ms < 30_000
    assert len(set(begun)) == 100
    assert len(rig.timers) == 0


def test_what_waits_begins_soon_after_the_probe_has_opened_the_lane() -> None:
    rig = Rig(100)
    rig.now_ms = RETRY_AT
    rig.close()
    rig.tick(RETRY_AT)
    assert rig.tick(RETRY_AT + PROBE_WAIT_MS) == ["job_000"]
    rig.now_ms = RETRY_AT + PROBE_WAIT_MS + 10
    rig.lanes.succeeded(MODEL, "c")
    assert len(rig.tick(RETRY_AT + PROBE_WAIT_MS + ASK_AGAIN_MS_MAX)) >= RAMP_FIRST


def test_a_deferred_job_ends_at_its_deadline() -> None:
    rig = Rig(1)
    rig.now_ms = RETRY_AT
    rig.close()
    rig.tick(RETRY_AT)
    assert rig.tick(DEADLINE) == ["job_000"]


def test_a_job_that_has_moved_on_keeps_its_own_time() -> None:
    rig = Rig(1)
    rig.now_ms = RETRY_AT
    rig.close()
    rig.tick(RETRY_AT)
    rig.end(b"job_000")
    rig.lanes.succeeded(MODEL, "c2")
    assert rig.tick(RETRY_AT + PROBE_WAIT_MS) == []
    assert rig.index.knows(Due(finished("cancelled", RETRY_AT + 5).forget_at_ms, b"job_000", 0))


def test_a_job_that_ended_while_deferred_takes_no_turn_of_the_probe() -> None:
    rig = Rig(3)
    rig.now_ms = RETRY_AT
    rig.close()
    rig.tick(RETRY_AT)
    rig.end(b"job_000", b"job_001")
    assert rig.tick(RETRY_AT + PROBE_WAIT_MS) == ["job_002"]
    assert len(rig.timers) == 0


def test_jobs_that_ended_while_deferred_take_no_place_on_the_ramp() -> None:
    rig = Rig(100)
    rig.now_ms = RETRY_AT
    rig.close()
    rig.tick(RETRY_AT)
    rig.end(*(b"job_%03d" % number for number in range(50)))
    rig.lanes.succeeded(MODEL, "c2")
    assert rig.tick(RETRY_AT + ASK_AGAIN_MS_MAX)[:RAMP_FIRST] == [f"job_{50 + n:03d}" for n in range(RAMP_FIRST)]


def test_a_long_queue_of_ended_jobs_is_left_in_bounded_steps() -> None:
    rig = Rig(ROWS_A_TICK_MAX + 2)
    rig.now_ms = RETRY_AT
    rig.close()
    while len(rig.timers) < ROWS_A_TICK_MAX + 2:
        rig.tick(RETRY_AT)
    rig.end(*(b"job_%03d" % number for number in range(ROWS_A_TICK_MAX + 1)))
    rig.rows_read = 0
    assert rig.tick(RETRY_AT + PROBE_WAIT_MS) == []
    assert rig.rows_read == ROWS_A_TICK_MAX
    assert rig.tick(RETRY_AT + PROBE_WAIT_MS) == [f"job_{ROWS_A_TICK_MAX + 1}"]


def test_deferred_jobs_of_a_revoked_partition_are_forgotten() -> None:
    rig = Rig(5)
    rig.now_ms = RETRY_AT
    rig.close()
    rig.tick(RETRY_AT)
    rig.index.own([])
    rig.admission.own([], 0.5, T0)
    rig.now_ms = RETRY_AT + PROBE_WAIT_MS
    rig.timers.let_go([])
    assert len(rig.timers) == 0


WAITING = encode_row(JOB_FOLD.encode_state(job.Waiting(replace(spec(), turn=Turn(waits=True)), Attempts(), T0)), 3)
TEN_A_MINUTE = '[{"requests_per_min": 10}]'


def test_a_waiting_job_begins_by_a_grant_as_soon_as_there_is_room() -> None:
    rig = Rig(3, WAITING, T0, TEN_A_MINUTE)
    assert rig.tick(T0) == ["job_000"]
    assert [fact.model_dump(exclude_none=True) for fact in rig.fired] == [
        {"v": 1, "id": "job_000/admitted", "at_ms": T0, "job_id": "job_000", "type": "job_admitted",
         "reserved_tokens": 2_500, "waited_for": "turn"}
    ]  # fmt: skip
    assert rig.tick(T0 + 5_900) == []
    assert rig.tick(T0 + 6_500) == ["job_001"]
    (second,) = rig.fired
    assert isinstance(second, JobAdmitted)
    assert second.waited_for == "requests_per_min"


def test_a_job_that_waits_is_due_again_at_its_deadline_and_ends_there() -> None:
    rig = Rig(2, WAITING, T0, '[{"concurrent": 1}]')
    assert rig.tick(T0) == ["job_000"]
    assert rig.tick(DEADLINE - 1) == []
    assert rig.tick(DEADLINE) == ["job_001"]
    assert isinstance(rig.fired[0], JobTimerFired)


def test_a_job_that_can_not_end_in_time_is_found_as_soon_as_that_is_so() -> None:
    rig = Rig(2, WAITING, T0, '[{"concurrent": 1}]')
    for _ in range(40):
        rig.admission.run_times.learn(MODEL, 60_000)
    assert rig.tick(T0) == ["job_000"]
    assert rig.tick(DEADLINE - 60_000) == []
    assert rig.tick(DEADLINE - 59_999) == ["job_001"]
    assert isinstance(rig.fired[0], JobFoundTooLate)


def test_a_retry_waits_under_the_same_limits_and_goes_before_the_others() -> None:
    rig = Rig(2, WAITING, T0, TEN_A_MINUTE)
    rig.rows[b"retry"] = ROW
    rig.index.put(0, b"retry", RETRY_AT)
    assert rig.tick(T0) == ["job_000"]
    assert rig.tick(RETRY_AT) == []
    assert rig.tick(T0 + 6_500) == ["retry"]
    assert rig.tick(T0 + 12_500) == ["job_001"]
