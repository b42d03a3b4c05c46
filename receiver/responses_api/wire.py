"""The Response object as clients of the OpenAI-compatible API see it. Pure.

While a job is open, the object is made from the request. At the job's end it is the provider's object with Backstop's
id and time of creation, and without the three metadata pairs by which Backstop finds orphans.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from schemas.codec import canonical
from schemas.requests import METADATA_JOB, METADATA_OURS, METADATA_OURS_BEFORE
from schemas.results import JobResult
from schemas.statuses import ResponseStatus, end_response_status

INGRESS_ID: Final = re.compile(r"resp_[0-9a-f]{48}")
"""Ids that `POST /v1/responses` assigns."""

# Fields of a response that the request does not set (from a queued response of the API, 2026-07).
_DEFAULTS: Final[dict[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "safety_identifier": None,
    "service_tier": "auto",
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}
_ECHOED_IF_GIVEN: Final = ("background_options", "prompt_cache_options", "prompt")


def shown_bytes(values: Mapping[str, Any]) -> int:
    """About the memory of what an open response shows of `values`: of its request, or of the response itself.

    Both are without large members where the request is large (`receiver.stored_objects`).
    """
    text = canonical({name: value for name, value in values.items() if name not in {"input", "output"}})
    return len(text) * (1 if text.isascii() else 4)  # one character of four bytes makes all of its text so


def response_object(
    response_id: str, status: ResponseStatus, *, model: str | None, created_at_ms: int, request: Mapping[str, Any]
) -> dict[str, Any]:
    """A response before its end, made from `request`; missing fields get the API's defaults."""
    shown: dict[str, Any] = {
        "id": response_id,
        "object": "response",
        "created_at": created_at_ms // 1000,
        "status": status,
        "background": _in_background(response_id, request),
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": request.get("model", model or "unknown"),
        "output": [],
        "usage": None,
        "store": True,
    }
    for name, default in _DEFAULTS.items():
        given = request.get(name)
        shown[name] = default if given is None else given
    shown["metadata"] = _object(request.get("metadata"))
    shown["reasoning"] = {"effort": None, "summary": None} | _object(request.get("reasoning"))
    shown["text"] = {"format": {"type": "text"}, "verbosity": "medium"} | _object(request.get("text"))
    for name in _ECHOED_IF_GIVEN:
        if name in request:
            shown[name] = request[name]
    return shown


def ended_object(
    response_id: str, result: JobResult, provided: Mapping[str, Any] | None, *, created_at_ms: int,
    request: Mapping[str, Any], previous_response_id: str | None,
) -> dict[str, Any]:  # fmt: skip
    """A response at its end. `provided` is the provider's object, None if the job ended without one."""
    status = end_response_status(result.outcome)
    shown = response_object(response_id, status, model=result.model, created_at_ms=created_at_ms, request=request)
    if provided is not None:
        shown |= provided
        shown |= {
            "id": response_id,
            "object": "response",
            "created_at": created_at_ms // 1000,
            "status": status,
            "background": _in_background(response_id, request),
            "metadata": _without_ours(provided.get("metadata"), result.job_id),
        }
    shown["previous_response_id"] = previous_response_id
    if status == "failed" and not shown.get("error"):
        shown["error"] = _error(result)
    return shown


def text_of(document: Mapping[str, Any], rest: bytes = b"") -> bytes:
    """The JSON of a response. `rest`: the JSON object of its members that `document` lacks; empty if there are none."""
    text = orjson.dumps(document)
    return text if not rest else b"%b,%b" % (text[:-1], rest[1:])


def as_open(document: Mapping[str, Any], status: ResponseStatus) -> dict[str, Any]:
    """`document` as it was before its end, with `status`."""
    before: dict[str, Any] = {
        "output": [],
        "usage": None,
        "error": None,
        "incomplete_details": None,
        "completed_at": None,
    }
    return {**document, **before, "status": status}


def deleted_object(response_id: str) -> dict[str, Any]:
    return {"id": response_id, "object": "response", "deleted": True}


def _in_background(response_id: str, request: Mapping[str, Any]) -> bool:
    """`background` as the client set it. All responses run in the background; without it, the create waited for the
    end.
    """
    return not request or "background" in request or not INGRESS_ID.fullmatch(response_id)


def _error(result: JobResult) -> dict[str, Any]:
    """The error of a job that failed without an error from the provider."""
    reason = result.reason
    if result.outcome == "expired":
        sentence = (
            reason.message if reason is not None and reason.message else "The response did not end by its deadline."
        )
        return {"code": "expired", "message": sentence}
    code = reason.code if reason is not None else result.outcome
    return {"code": code, "message": (reason.message if reason is not None else "") or f"The job was {result.outcome}."}


def _without_ours(metadata: Any, job_id: str) -> dict[str, Any]:
    """The provider's metadata without Backstop's pairs. Older creates used names without a prefix; those are removed
    only if they name this job, as newer clients may use the same names.
    """
    given = _object(metadata)
    ours = METADATA_OURS
    if METADATA_JOB not in given and given.get(METADATA_OURS_BEFORE[0]) == job_id:
        ours = frozenset(METADATA_OURS_BEFORE)
    return {name: value for name, value in given.items() if name not in ours}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
