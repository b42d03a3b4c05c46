"""What holds an open job up before anything else can."""

from typing import Any

import pytest

from backstop.readmodel.waits import UNSEEN
from backstop.runtime.settings import RuntimeSettings
from receiver.lane_watch import LaneWatch
from receiver.reads.holding import holding
from receiver.reads.status import system_watch
from schemas.base import Message
from schemas.jobs import Turn
from schemas.pauses import PAUSED_CODE, CreatesPaused, CreatesResumed, PauseScope
from tests.unit.backstop.readmodel.logs import DEADLINE_MS, accepted, rejected, submitted
from tests.unit.backstop.readmodel.test_waits import row_of

WAITS = (submitted(turn=Turn(waits=True)),)
RUNS = (submitted(), accepted())
REFUSED = (submitted(), rejected())


def paused(at_ms: int = 5_000, **scope: Any) -> CreatesPaused:
    whole = PauseScope(**scope)
    return CreatesPaused(id=f"{whole.pause_id}/{at_ms}", at_ms=at_ms, scope=whole, by="Ann", why="the key is rotated")


def held(facts: tuple[Message, ...], *told: CreatesPaused | CreatesResumed) -> Any:
    lanes = LaneWatch(RuntimeSettings(), lambda: 6_000)
    for fact in told:
        lanes.take_pause(fact, fact.at_ms)
    return holding(system_watch(RuntimeSettings(), lambda: 6_000), lanes)(row_of(*facts), UNSEEN)


@pytest.mark.parametrize("facts", [WAITS, REFUSED], ids=["turn", "retry"])
def test_a_job_whose_next_step_is_a_create_waits_until_the_operator_resumes(facts: tuple[Message, ...]) -> None:
    wait = held(facts, paused(model="gpt-5"))
    assert wait is not None
    assert (wait.waits_for, wait.since_ms, wait.until_ms) == ("resume", 5_000, DEADLINE_MS)
    assert wait.code == PAUSED_CODE
    assert "Ann" in wait.message
    assert "the key is rotated" in wait.message


def test_a_job_that_runs_does_not_wait_for_a_pause_to_end() -> None:
    assert held(RUNS, paused(model="gpt-5")) is None


def test_a_pause_of_others_and_one_that_has_ended_hold_nothing() -> None:
    pause = paused(model="gpt-5")
    ended = CreatesResumed(
        id="r", at_ms=5_500, scope=pause.scope, by="Bob", why="done", paused_at_ms=pause.at_ms
    )  # fmt: skip
    assert held(WAITS, paused(model="another")) is None
    assert held(WAITS, pause, ended) is None


def test_of_two_pauses_the_earlier_one_is_told() -> None:
    assert held(WAITS, paused(4_000, tenant="default"), paused(5_000, model="gpt-5")).since_ms == 4_000
