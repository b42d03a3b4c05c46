"""What an answer of OpenAI means: accepted, rejected (whose fault, how long to wait), unknown, seen, or ask again.

Everything here is untrusted input and may be anything; every function is total. Three rules carry the rest:

1. A create whose answer we did not get, or can't read, is *unknown*: it may have been accepted, and so paid for.
2. A look counts only with the id that was asked for, a known status, and a list as output. All else is asked again.
3. Failed, incomplete and cancelled come with HTTP 200: what decides is the status, the error's code, the reason.

Sources: the OpenAI guides "Error codes" and "Rate limits" (2026), and measurements with openai-python 3.54.0.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from streams.policy.observations import CODE_CHARS_MAX, TEXT_CHARS_MAX, Seen, see, shown
from streams.policy.waits import limit_reset_ms, retry_after_ms

_RESPONSE_ID = re.compile(r"[A-Za-z0-9_.:\-]{1,200}")


class NotJson:
    """The body of an answer that is no JSON."""

    def __repr__(self) -> str:
        return "NOT_JSON"


NOT_JSON: Final = NotJson()

FaultKind = Literal["never_sent", "lost", "timeout", "unexpected"]
"""`never_sent`: the connection was not made. `lost`: it broke. `timeout`: no answer in time. All but the first: may have arrived."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, whole. Header names are in lower case; `body` is parsed JSON or `NOT_JSON`."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = NOT_JSON
    streamed: bool = False
    """It came as events; `body` is the first response object among them."""
    text: str = ""
    """Of a body that is no JSON: its first 500 characters, as they came; or what is to be said of it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """No answer. `detail` names exception classes only, never their text."""

    kind: FaultKind
    detail: str = ""


Reply = Answer | Fault


@dataclass(frozen=True, slots=True)
class Accepted:
    response_id: str
    status: str
    """As OpenAI said it; any of the six, or one that nobody knows."""
    provider_request_id: str | None = None
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """It was surely not taken. `alarm`: a person must act (key, quota, project, proxy)."""

    blame: Literal["soon", "reset", "never"]
    code: str
    message: str = ""
    wait_ms: int = 0
    alarm: bool = False
    http_status: int | None = None
    limited: bool = False
    """The edge took us for an attack: slow all calls down."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have been taken."""

    reason: str


@dataclass(frozen=True, slots=True)
class Missing:
    """404: not yet, or no more."""


@dataclass(frozen=True, slots=True)
class AskAgain:
    """No observation. `limited`: a 429 or an edge block, so the global rate must fall."""

    reason: str
    wait_ms: int = 0
    edge_block: bool = False
    limited: bool = False


@dataclass(frozen=True, slots=True)
class NotCancelled:
    """The cancel was declined; a look tells why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The key or the project is not allowed to look: an alarm, as no repeat mends it."""

    code: str
    message: str


QUOTA_CODES = frozenset({
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_usage_limit_exceeded",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
})  # fmt: skip
_MAYBE_TAKEN_4XX = frozenset({408, 409, 425, 499})
"""Client errors that say nothing about whether the request was taken: timeouts, conflicts, and a proxy that gave up."""


def read_create(reply: Reply, now_ms: int) -> Accepted | Rejected | Unknown:
    """What became of a create."""
    if isinstance(reply, Fault):
        if reply.kind == "never_sent":
            return Rejected("soon", "never_sent", reply.detail)
        return Unknown(f"{reply.kind}: {reply.detail}" if reply.detail else reply.kind)
    if 200 <= reply.status < 300:
        return _taken(reply)
    if reply.status in (401, 403, 429):
        return _declined(reply, now_ms)
    return _other_status(reply, now_ms)


def read_look(reply: Reply, response_id: str, now_ms: int) -> Seen | Missing | AskAgain | Refused:
    """What a retrieve of `response_id` saw."""
    if isinstance(reply, Fault):
        return AskAgain(f"{reply.kind}: {reply.detail}" if reply.detail else reply.kind)
    if reply.status == 200:
        seen = see(reply.body, reply.headers, response_id)
        return seen if isinstance(seen, Seen) else AskAgain(seen.reason)
    if reply.status == 404 and isinstance(reply.body, dict):
        # A 404 without JSON is a proxy's, and says nothing about the response.
        return Missing()
    return _not_seen(reply, now_ms)


def read_cancel(reply: Reply, response_id: str, now_ms: int) -> Seen | NotCancelled | AskAgain | Refused:
    """What a cancel of `response_id` did. Any status that comes with HTTP 200 is an observation."""
    if isinstance(reply, Answer) and reply.status in (400, 404, 409):
        return NotCancelled(_error_of(reply).code)
    answer = read_look(reply, response_id, now_ms)
    return NotCancelled("missing") if isinstance(answer, Missing) else answer


def _not_seen(answer: Answer, now_ms: int) -> AskAgain | Refused:
    error = _error_of(answer)
    wait_ms = retry_after_ms(answer.headers, now_ms)
    if answer.status == 401 or (answer.status == 403 and error.from_api):
        return Refused(error.code, error.message)
    if answer.status == 429 and error.from_api:
        return AskAgain(error.code, wait_ms or limit_reset_ms(answer.headers, error.kind), limited=True)
    if answer.status in (403, 429):
        return AskAgain("edge_block", wait_ms, edge_block=True, limited=True)
    return AskAgain(f"http_{answer.status}", wait_ms)


@dataclass(frozen=True, slots=True)
class _Error:
    code: str
    kind: str | None
    message: str
    from_api: bool
    """The body is JSON, so that the API has answered, not the edge before it."""


def _error_of(answer: Answer) -> _Error:
    body = answer.body
    inner = body.get("error", body) if isinstance(body, dict) else None
    fields: Mapping[str, Any] = inner if isinstance(inner, dict) else {}
    code, kind, message = (fields.get(name) for name in ("code", "type", "message"))
    kind = shown(kind, CODE_CHARS_MAX)
    return _Error(
        code=shown(code, CODE_CHARS_MAX) or kind or f"http_{answer.status}",
        kind=kind,
        message=shown(message, TEXT_CHARS_MAX) or "",
        from_api=body is not NOT_JSON,
    )


def _taken(answer: Answer) -> Accepted | Unknown:
    body = answer.body
    if not isinstance(body, dict) or body.get("object") != "response":
        return Unknown("no_response_object")
    response_id = body.get("id")
    if not isinstance(response_id, str) or not _RESPONSE_ID.fullmatch(response_id):
        return Unknown("no_usable_id")
    return Accepted(
        response_id,
        status=shown(body.get("status"), CODE_CHARS_MAX) or "unknown",
        provider_request_id=shown(answer.headers.get("x-request-id"), CODE_CHARS_MAX),
        streamed=answer.streamed,
    )


def _other_status(answer: Answer, now_ms: int) -> Rejected | Unknown:
    error = _error_of(answer)
    status = answer.status
    if status == 503 and error.code == "server_is_overloaded":
        # The only 5xx that is documented as a refusal.
        return Rejected("soon", error.code, error.message, retry_after_ms(answer.headers, now_ms), http_status=status)
    if 300 <= status < 400:
        # Following it would have sent the create once more: a proxy or the base URL is wrong.
        return Rejected("never", error.code, error.message, alarm=True, http_status=status)
    if 400 <= status < 500 and status not in _MAYBE_TAKEN_4XX:
        return Rejected("never", error.code, error.message, alarm=status == 402, http_status=status)
    return Unknown(f"http_{status}")


def _declined(answer: Answer, now_ms: int) -> Rejected:
    """401, 403 and 429: the key, the edge, the quota or a limit."""
    error = _error_of(answer)
    status = answer.status
    wait_ms = retry_after_ms(answer.headers, now_ms)
    if status != 401 and not error.from_api:
        return Rejected("reset", "edge_block", "", wait_ms, http_status=status, limited=True)
    if status in (401, 403) or error.code in QUOTA_CODES or error.kind == "insufficient_quota":
        return Rejected("never", error.code, error.message, alarm=True, http_status=status)
    if error.code == "rate_limit_exceeded" and error.message.startswith("Request too large"):
        # One request above the whole limit never fits; matching it anywhere else in the message misfires.
        return Rejected("never", error.code, error.message, http_status=status)
    wait_ms = wait_ms or limit_reset_ms(answer.headers, error.kind)
    return Rejected("reset", error.code, error.message, wait_ms, http_status=status)
