"""A state as the bytes of a table's row, and back. Equal states give equal bytes, as the check of I4 needs. Pure."""

from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic.main import IncEx

from schemas.base import InlineBody
from schemas.codec import canonical
from streams.fold import job, response

_JOB: TypeAdapter[job.JobState] = TypeAdapter(
    Annotated[job.Absent | job.Waiting | job.Active | job.BackingOff | job.Finished, Field(discriminator="kind")]
)
_RESPONSE: TypeAdapter[response.ResponseState] = TypeAdapter(
    Annotated[
        response.AbsentResponse | response.Unclaimed | response.RunningResponse | response.Ended,
        Field(discriminator="kind"),
    ]
)


_RESPONSE_SIGHT: TypeAdapter[response.SeenSoFar] = TypeAdapter(response.SeenSoFar)
_PLAIN: dict[str, Any] = {
    "stream": False, "missing_patience_ms": 120_000, "stuck_after_ms": None, "stuck_factor": None, "include": [],
    "window_ms": None, "released_at_ms": None, "sight": _RESPONSE_SIGHT.dump_python(response.SeenSoFar(), mode="json"),
    "unpaid_ends": 0, "doubts": 0, "streak": 0, "streak_cause": None, "continuation_id": None, "unpaid_ends_max": 100,
    "doubts_max": 12, "on_account": "wait", "answered": False, "said": "", "code": None, "usage": None, "last": False,
    "create_timeout_ms": None, "public_url": None, "uncounted": [], "booked": [], "made_elsewhere": False,
    "held_for": None, "turn": None, "hedge": None, "tags_sent": None, "latency_class": [], "changes": 0,
    "retry_of": None, "change": 0, "control": False, "progress": None, "cap": None, "fallback": None, "fell": [],
    "beside_tokens": 0, "beside_pico": 0, "traceparent": None, "taken": False, "refused_since_ms": None,
}  # fmt: skip
"""Fields are left out of a row where they have these values. Most rows are half the size, and rows that are older than
the fields have the same bytes."""


_LATER = ("changes", "retry_of", "cap", "fallback", "fell", "beside_tokens", "beside_pico", "traceparent")
"""Fields that are newer than rows of waiting jobs, whose other fields are all written."""

_BODY: IncEx = {"spec": {"request": {"value"}}}


def _lean(fields: dict[str, Any]) -> dict[str, Any]:
    """Drop fields with default values. For Backstop's own objects only, never inside a request's body."""
    return {name: value for name, value in fields.items() if name not in _PLAIN or value != _PLAIN[name]}


def encode_job_state(state: job.JobState) -> bytes:
    if isinstance(state, job.Active | job.BackingOff):
        return canonical(_open_row(state))
    row = _lean(_JOB.dump_python(state, mode="json"))
    if isinstance(state, job.Waiting):
        for part in ("spec", "attempts"):
            row[part] = {
                name: value for name, value in row[part].items() if name not in _LATER or value != _PLAIN[name]
            }
    return canonical(row)


def _open_row(state: job.Active | job.BackingOff) -> dict[str, Any]:
    request = state.spec.request
    # A body is JSON already. Left out and put back, it is not copied.
    left_out = _BODY if isinstance(request, InlineBody) else None
    row = _lean(_JOB.dump_python(state, mode="json", exclude=left_out))
    spec, attempts = row["spec"], row["attempts"]
    if isinstance(request, InlineBody):
        spec["request"]["value"] = request.value
    spec["policy"] = _lean(spec["policy"])
    attempts["items"] = [_lean(item) for item in attempts["items"]]
    return {**row, "spec": _lean(spec), "attempts": _lean(attempts)}


def decode_job_state(data: bytes) -> job.JobState:
    return _JOB.validate_json(data)


def encode_response_state(state: response.ResponseState) -> bytes:
    row = _lean(_RESPONSE.dump_python(state, mode="json"))
    for part in ("claim", "sight"):
        if part in row:
            row[part] = _lean(row[part])
    return canonical(row)


def decode_response_state(data: bytes) -> response.ResponseState:
    return _RESPONSE.validate_json(data)


def encode_row(state: bytes, offset: int) -> bytes:
    """The row: offset, space, state. The offset comes first, so that it can be read without parsing the state."""
    return b"%d %s" % (offset, state)


def decode_row(row: bytes) -> tuple[bytes, int]:
    """The bytes of the state, and the offset.

    :raises ValueError: the bytes are not a row; the store is damaged.
    """
    offset, space, state = row.partition(b" ")
    if not space or not offset.isdigit():
        raise ValueError(f"not a row of a fold: it begins with {row[:20]!r}; the store is damaged")
    return state, int(offset)
