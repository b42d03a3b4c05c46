"""The class of a response goes from its acceptance through the claim to each of its polls."""

from schemas.commands import RetrieveResponse
from schemas.responses import ResponseClaimed
from streams.fold import job, response
from streams.fold.rows import decode_response_state, encode_response_state
from tests.support import builders as build

LEAF = ("m", "high", "small")


def test_the_fold_copies_the_class_and_never_asks_for_it() -> None:
    submitted = job.step(job.Absent(), build.submitted()).state
    accepted = job.step(submitted, build.accepted(build.T0 + 10, latency_class=LEAF))
    (claim,) = (output for output in accepted.outputs if isinstance(output, ResponseClaimed))
    assert claim.latency_class == LEAF

    running = response.step(response.AbsentResponse(), claim).state
    assert decode_response_state(encode_response_state(running)) == running
    (poll,) = response.step(running, build.webhook(build.T0 + 20)).outputs
    assert isinstance(poll, RetrieveResponse)
    assert poll.latency_class == LEAF


def test_a_response_without_a_class_has_the_row_that_it_had_before() -> None:
    running = response.step(response.AbsentResponse(), build.claimed(build.T0)).state
    assert b"latency_class" not in encode_response_state(running)
