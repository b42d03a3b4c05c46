"""Rows: equal states give equal bytes, every class can be read back, and other bytes are refused."""

from dataclasses import replace
from typing import Any

import pytest

from schemas.base import BlobBody, InlineBody
from schemas.commands import CreateResponse
from schemas.results import Reason
from streams.fold import job, response
from streams.fold.attempts import Abandoned, OutcomeUnknown, Over, Running, Submitting
from streams.fold.rows import (
    decode_job_state,
    decode_response_state,
    decode_row,
    encode_job_state,
    encode_response_state,
    encode_row,
)
from tests.support.builders import POLICY, RESP, T0, submitted
from tests.unit.streams.fold.states import active, attempts, backing_off, claim, finished, spec, webhooks

EVERY_ATTEMPT = (
    Submitting(1, 2, 3),
    OutcomeUnknown(2, 3),
    Running(3, "r3", 4, True),
    Abandoned(4),
    Over(5, "r5", "missing", 6, False),
)
ODD_BODY = InlineBody(value={"b": [1.5, -0.0, 2**63, "é\u2028\U0001f600"], "a": {"": None}})

JOB_STATES: tuple[job.JobState, ...] = (
    job.Absent(),
    active(*EVERY_ATTEMPT, retries=2, rejections=3, unknowns=4),
    job.Active(replace(spec(), request=ODD_BODY, session_id="s", tags=("a", "b")), attempts()),
    job.Active(replace(spec(), request=BlobBody(sha256="0" * 64, size_bytes=1)), attempts()),
    backing_off(T0, Reason(code="c", message="m"), Abandoned(1)),
    finished("expired", T0, "r1", "r2"),
)
RESPONSE_STATES: tuple[response.ResponseState, ...] = (
    response.AbsentResponse(),
    response.Unclaimed(T0, webhooks(T0, "a", "b", ended_at_ms=7), None, T0 + 5, polls=3),
    response.RunningResponse(claim(), T0, polls=2, webhooks=webhooks(T0)),
    response.RunningResponse(claim(), T0),
    response.RunningResponse(replace(claim(), stream=True), T0),
    response.Ended(claim(), "missing", T0),
)


@pytest.mark.parametrize("state", JOB_STATES, ids=lambda state: state.kind)
def test_a_state_of_a_job_comes_back_from_its_row(state: job.JobState) -> None:
    data = encode_job_state(state)
    assert (decode_job_state(data), encode_job_state(decode_job_state(data))) == (state, data)


@pytest.mark.parametrize("state", RESPONSE_STATES, ids=lambda state: state.kind)
def test_a_state_of_a_response_comes_back_from_its_row(state: response.ResponseState) -> None:
    data = encode_response_state(state)
    assert (decode_response_state(data), encode_response_state(decode_response_state(data))) == (state, data)


def test_the_bytes_of_a_row_are_these_for_ever() -> None:
    """A change here makes every table differ from its refold: it needs a migration."""
    data = encode_response_state(response.Ended(claim(), "completed", 9))
    assert data == (
        b'{"claim":{"attempt":1,"claimed_at_ms":1000100,"forget_after_ms":7200000,"job_id":"job_1",'
        b'"last_poll_at_ms":4590000,"missing_grace_ms":40000,"tenant":"acme"},"forget_at_ms":9,"kind":"ended",'
        b'"status":"completed"}'
    )


def test_the_order_of_keys_in_a_request_does_not_change_the_row() -> None:
    one, other = InlineBody(value={"a": 1, "b": 2}), InlineBody(value={"b": 2, "a": 1})
    rows = {encode_job_state(job.Active(replace(spec(), request=body), attempts())) for body in (one, other)}
    assert len(rows) == 1


@pytest.mark.parametrize("offset", [0, 7, 2**62])
@pytest.mark.parametrize("state", [b"{}", b'{"a": " "}', b""])
def test_the_offset_and_the_state_come_back_from_a_row(state: bytes, offset: int) -> None:
    assert decode_row(encode_row(state, offset)) == (state, offset)


@pytest.mark.parametrize("row", [b"", b"{}", b"12", b"-1 {}", b" {}", b"1x {}", b"\x00 {}"])
def test_a_damaged_row_is_refused(row: bytes) -> None:
    with pytest.raises(ValueError, match="not a row of a fold"):
        decode_row(row)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"kind":"gone"}', b'{"kind":"ended"}', b"[]"])
@pytest.mark.parametrize("decoder", [decode_job_state, decode_response_state])
def test_the_bytes_of_no_state_are_refused(data: bytes, decoder: Any) -> None:
    with pytest.raises(ValueError, match="validation error"):
        decoder(data)


def test_a_running_response_is_named_in_the_row_of_its_job() -> None:
    assert attempts(*EVERY_ATTEMPT, Running(6, RESP, T0, False)).response_ids() == ("r3", "r5", RESP)


@pytest.mark.parametrize("stamped_ms", [None, 600_000])
def test_the_time_of_a_create_goes_from_the_job_to_its_command_and_a_row_without_it_keeps_its_bytes(
    stamped_ms: int | None,
) -> None:
    """Two processes with two settings let a job give up a create that still ran, and paid it twice."""
    fact = submitted(policy=POLICY.model_copy(update={"create_timeout_ms": stamped_ms}))
    step = job.step(job.Absent(), fact)
    (command,) = step.outputs
    assert isinstance(command, CreateResponse)
    assert command.timeout_ms == stamped_ms
    row = encode_job_state(step.state)
    assert (b"create_timeout_ms" in row) == (stamped_ms is not None)
    assert decode_job_state(row) == step.state
