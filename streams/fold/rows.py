"""A state as the bytes of a table's row, and back. Equal states are equal bytes: that is what I4 compares."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from schemas.codec import canonical
from streams.fold import job, response

_JOB: TypeAdapter[job.JobState] = TypeAdapter(
    Annotated[job.Absent | job.Active | job.BackingOff | job.Finished, Field(discriminator="kind")]
)
_RESPONSE: TypeAdapter[response.ResponseState] = TypeAdapter(
    Annotated[response.Absent | response.Unclaimed | response.Running | response.Ended, Field(discriminator="kind")]
)


def encode_job_state(state: job.JobState) -> bytes:
    return canonical(_JOB.dump_python(state, mode="json"))


def decode_job_state(data: bytes) -> job.JobState:
    return _JOB.validate_json(data)


def encode_response_state(state: response.ResponseState) -> bytes:
    row = _RESPONSE.dump_python(state, mode="json")
    claim = row.get("claim")
    if claim is not None and not claim["stream"]:
        del claim["stream"]  # Rows that were written before it existed have the same bytes.
    return canonical(row)


def decode_response_state(data: bytes) -> response.ResponseState:
    return _RESPONSE.validate_json(data)


def encode_row(state: bytes, offset: int) -> bytes:
    """The offset in front, so that a repeat is known without parsing the state."""
    return b"%d %s" % (offset, state)


def decode_row(row: bytes) -> tuple[bytes, int]:
    """The state's bytes and the offset.

    :raises ValueError: no row of ours; the store is damaged.
    """
    offset, space, state = row.partition(b" ")
    if not space or not offset.isdigit():
        raise ValueError(f"a row that begins {row[:20]!r} is not ours")
    return state, int(offset)
