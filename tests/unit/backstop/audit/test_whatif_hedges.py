"""Which hedges a what-if permits: by the mode of the policy, and by the product's own rules."""

import pytest

from backstop.audit.whatif.hedges import HedgeDesk
from backstop.audit.whatif.policy import Hedging
from backstop.audit.whatif.recorded import Recorded
from schemas.hedges import HedgeMode, HedgePermit, HedgeTerms
from streams.fold.response import AbsentResponse, RunningResponse, step
from tests.support import builders as b

MODEL = "m"
ENDS = 120


def desk(mode: HedgeMode = "all", jobs: int = 0, ends: int = 0) -> HedgeDesk:
    """A desk that has seen submissions, and responses that ended after 1 to 10 s."""
    recorded = Recorded(0, b.DEADLINE, models={b.JOB: MODEL}, hedgeable={b.JOB})
    made = HedgeDesk(Hedging(mode=mode, share=0.05), recorded)
    for _ in range(jobs):
        made.took(made.submitted(b.submitted(b.T0)))
    for number in range(ends):
        made.took(b.claimed(b.T0, response_id=f"resp_{number}", hedge=HedgeTerms(model=MODEL)))
    for number in range(ends):
        run_ms = 1_000 + 9_000 * number // ends
        stamps = {"provider_created_at_ms": b.T0, "provider_ended_at_ms": b.T0 + run_ms}
        made.took(b.observed(b.T0 + run_ms, "completed", response_id=f"resp_{number}", **stamps))
    return made


@pytest.mark.parametrize(("mode", "before", "after"), [
    ("all", None, True), ("never", True, None), ("asked", True, True), ("asked", None, None),
])  # fmt: skip
def test_the_mode_says_which_jobs_may_be_hedged(mode: HedgeMode, before: bool | None, after: bool | None) -> None:
    policy = b.POLICY.model_copy(update={"hedge": before})
    assert desk(mode).submitted(b.submitted(b.T0, policy=policy)).policy.hedge is after


def test_a_job_whose_request_two_attempts_might_do_twice_is_left_alone() -> None:
    assert desk("all").submitted(b.submitted(b.T0, job_id="acts")).policy.hedge is None


def running(made: HedgeDesk) -> RunningResponse:
    accepted = made.accepted(b.accepted(b.T0), may=True, recorded=False, moved_ms=0)
    terms = HedgeTerms(model=MODEL, at_ms=accepted.hedge_at_ms)
    state = step(AbsentResponse(), b.claimed(b.T0, hedge=terms, poll_at_ms=b.T0 + 60_000)).state
    assert isinstance(state, RunningResponse)
    return state


def asked(made: HedgeDesk, age_ms: int) -> tuple[bool, int | None]:
    """Whether a response of that age gets a permission, and when it asks again."""
    permit, again_ms = made.ask(b.RESP, running(made), b.T0 + age_ms)
    return permit is not None, again_ms


def test_nothing_is_permitted_before_a_hundred_have_ended() -> None:
    assert asked(desk(jobs=100, ends=50), 50_000)[0] is False
    assert asked(desk(jobs=100, ends=ENDS), 50_000) == (True, None)


def test_a_young_response_asks_when_it_is_old_enough() -> None:
    permitted, again_ms = asked(desk(jobs=100, ends=ENDS), 2_000)
    assert not permitted
    assert again_ms is not None
    assert 8_500 < again_ms - b.T0 < 10_500, "5 % ran longer"


def test_an_empty_budget_permits_nothing() -> None:
    assert asked(desk(jobs=5, ends=ENDS), 50_000)[0] is False


def test_as_it_was_only_the_hedges_of_the_log_are_permitted_at_the_same_age() -> None:
    permit = HedgePermit(age_ms=9_000, after_ms=8_000, share=0.02, ended=200)
    made = HedgeDesk(None, Recorded(0, b.DEADLINE, models={b.JOB: MODEL}, permits={b.RESP: permit}))
    state = running(made)
    assert made.ask(b.RESP, state, b.T0 + 8_500) == (None, b.T0 + 9_000)
    assert made.ask(b.RESP, state, b.T0 + 9_000) == (permit, None)
    assert made.ask("another", state, b.T0 + 50_000) == (None, None)
