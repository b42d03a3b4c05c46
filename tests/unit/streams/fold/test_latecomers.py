"""A response that turns up after its job's end is cancelled, as it costs money, and claimed, so that its end is
polled.
"""

import pytest

from schemas.commands import CancelResponse
from schemas.responses import ResponseClaimed
from streams.fold import job, response
from tests.support.builders import FORGET_AFTER, JOB, T0, TENANT, accepted
from tests.unit.streams.fold.states import finished

ENDED_MS = T0 + 9_000


@pytest.mark.parametrize("outcome", ["completed", "failed", "expired", "cancelled"])
@pytest.mark.parametrize("adopted", [False, True])
def test_it_is_claimed_and_cancelled_once(outcome: str, adopted: bool) -> None:
    before = finished(outcome, ENDED_MS, "resp_1")
    late = accepted(ENDED_MS + 50, 2, "resp_2", adopted=adopted)
    step = job.step(before, late)
    assert step.state == finished(outcome, ENDED_MS, "resp_1", "resp_2", uncounted=("resp_2",))
    (claim,) = step.outputs
    assert isinstance(claim, ResponseClaimed)
    assert (claim.response_id, claim.job_id, claim.attempt, claim.tenant) == ("resp_2", JOB, 2, TENANT)
    assert (claim.poll_at_ms, claim.forget_after_ms) == (late.poll_at_ms, FORGET_AFTER)
    assert claim.released is True
    (cancel,) = response.step(response.AbsentResponse(), claim).outputs
    assert cancel == CancelResponse(id="resp_2/cancel", at_ms=ENDED_MS + 50, response_id="resp_2", job_id=JOB)
    again = job.step(step.state, late)
    assert (again.state, again.outputs) == (step.state, ())


def test_another_tenants_is_left_alone() -> None:
    before = finished("completed", ENDED_MS, "resp_1")
    step = job.step(before, accepted(ENDED_MS + 50, 2, "resp_2", tenant="another"))
    assert (step.state, step.outputs) == (before, ())
