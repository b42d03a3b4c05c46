"""When the scheduler lets a job that waits go on with another model."""

from dataclasses import replace

import pytest

from schemas.base import Message
from schemas.fallbacks import Fallback, Fallbacks
from schemas.jobs import FallbackTaken, JobTimerFired, Turn
from schemas.results import Reason
from streams.fold import job
from streams.fold.attempts import Attempts
from streams.fold.batch import JOB_FOLD
from streams.fold.rows import encode_row
from streams.policy.admission import Admission
from streams.policy.lanes import Closed, Why
from streams.policy.limits import NO_LIMITS
from streams.scheduler.due import Due, DueIndex
from streams.scheduler.job_timers import JobTimers
from tests.support.builders import DEADLINE, MODEL, T0
from tests.unit.streams.fold.states import spec

AFTER_MS = 60_000
OTHER = "model-2"
SPEC = replace(spec(), fallback=Fallbacks(to=(Fallback(model=OTHER),), after_ms=AFTER_MS))
WAITING = job.Waiting(replace(SPEC, turn=Turn(waits=True)), Attempts(), T0)
BACKING_OFF = job.BackingOff(SPEC, Attempts(last_number=1), T0, Reason(code="invalid_api_key"), "account")


class Rig:
    """One job whose lane is closed since T0, until it is opened."""

    def __init__(self, state: job.Waiting | job.BackingOff) -> None:
        self.now_ms = T0
        self.closed: dict[str, Closed] = {MODEL: Closed(T0, Why("account", "invalid_api_key"), T0 + 1_000)}
        self.index = DueIndex(lambda: self.now_ms)
        self.index.opened(0)
        self.row = encode_row(JOB_FOLD.encode_state(state), 1)
        self.timers = JobTimers(
            self.index, lambda _, __: self.row, lambda model: 1_000 if model in self.closed else 0,
            lambda: self.now_ms, Admission(NO_LIMITS, "a"), closed=self.closed.get,
        )  # fmt: skip
        self.index.put(0, b"j", T0)

    def run(self, until_ms: int) -> list[tuple[int, Message]]:
        """All facts until then."""
        facts: list[tuple[int, Message]] = []
        for now_ms in range(self.now_ms, until_ms + 1, 500):
            self.now_ms = now_ms
            self.timers.let_go([0])
            for due in self.index.due(now_ms, 10, [0]):
                self.index.taken(due)
                fact = self.timers(due, self.row, now_ms)
                if fact is not None:
                    facts.append((now_ms - T0, fact))
        return facts


@pytest.mark.parametrize("state", [WAITING, BACKING_OFF])
def test_a_job_leaves_a_lane_once_that_has_been_closed_for_as_long_as_it_waits(
    state: job.Waiting | job.BackingOff,
) -> None:
    ((at_ms, fact),) = Rig(state).run(T0 + AFTER_MS + 5_000)
    assert isinstance(fact, FallbackTaken)
    assert (at_ms, fact.number, fact.closed_ms, fact.code) == (AFTER_MS, 1, AFTER_MS, "invalid_api_key")


def test_a_lane_that_opens_in_time_keeps_its_jobs() -> None:
    rig = Rig(BACKING_OFF)
    assert rig.run(T0 + AFTER_MS - 1_000) == []
    rig.closed.clear()
    ((_, fact),) = rig.run(T0 + AFTER_MS + 5_000)
    assert isinstance(fact, JobTimerFired)


def test_a_job_whose_fallbacks_are_used_up_or_that_has_none_waits_on() -> None:
    for state in (replace(BACKING_OFF, spec=spec()), replace(BACKING_OFF, last=True)):
        assert Rig(state).run(T0 + 3 * AFTER_MS) == []


def test_the_index_has_the_time_of_the_fallback() -> None:
    rig = Rig(BACKING_OFF)
    rig.run(T0)
    assert rig.index.knows(Due(T0 + AFTER_MS, b"j", 0))
    assert DEADLINE > T0 + AFTER_MS
