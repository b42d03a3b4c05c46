"""The meaning of the provider's answers: accepted, rejected (why, how long to wait), unknown, seen, or ask again. Pure.

All input is untrusted; every function is total. The rules are in ARCHITECTURE.md, "What a refusal means" and "When a
response is over". The three main ones:

1. A create without an answer, or with an unreadable one, is *unknown*: it may have been accepted, and so paid.
2. Information in an answer (an error object, a time to come back) is believed. An empty 5xx proves nothing.
3. Failed, incomplete and cancelled responses come with HTTP 200: the object's status, error code and reason decide.

Sources: the OpenAI guides "Error codes" and "Rate limits" (2026), measurements with openai-python 3.54.0, and public
reports of gateways.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from schemas.base import NEVER_SENT, RESPONSE_ID_PATTERN
from streams.openai.causes import MODEL_CODES, Rule, Said, is_account_wide, says_no, verdict
from streams.openai.errors import code_of, fields_of, page_title, words_of
from streams.openai.foreign_json import NOT_JSON, is_error, is_response, is_response_word
from streams.openai.observations import (
    ACCOUNT_WAIT_MS_MAX,
    CODE_CHARS_MAX,
    OF_ANOTHER_JOB,
    TEXT_CHARS_MAX,
    TOO_LARGE,
    Unseen,
    ours_of,
    owned_by_another,
    see,
    shown,
    stands_there,
    too_large,
    unusable_id,
)
from streams.openai.told_limits import told_limits
from streams.openai.waits import body_wait_ms, limit_reset_ms, retry_after_ms, text_wait_ms
from streams.provider import (
    Accepted,
    AskAgain,
    Deleted,
    Missing,
    NotCancelled,
    NotStreamable,
    Refused,
    Rejected,
    Seen,
    Unknown,
)

_RESPONSE_ID = re.compile(RESPONSE_ID_PATTERN)
BROKEN_OFF = "lost: the answer broke off"
_NO_ANSWER_YET = frozenset({401, 403, 407, 408, 409, 423, 425, 429, 499})
"""Statuses of a poll that say nothing of the response: its key is refused, or it came too soon or too often."""
_LOCATIONS = ("location", "operation-location", "content-location")
"""Headers that name the response, the most telling first."""
_NOT_CANCELLED = frozenset({400, 404, 405, 409, 422, 501})
ANSWER_CHARS_SHOWN = 200
"""How much of an unusable answer is kept: enough to recognise the server that sent it."""


FaultKind = Literal["never_sent", "lost", "timeout", "unexpected"]
"""`never_sent`: no connection was made. `lost`: the connection broke. `timeout`: no answer in time. With all but
`never_sent` the provider may have taken the request."""


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """A complete HTTP answer. Header names are in lower case; `body` is parsed JSON or `NOT_JSON`."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = NOT_JSON
    whole: bytes | None = field(default=None, repr=False)
    """Of a large answer, whose `body` lacks most of the output: the canonical JSON of the response."""
    streamed: bool = False
    """The answer was a stream of events; `body` is the response object that was taken from it."""
    text: str = ""
    """The first 500 characters of a body that is not JSON, unchanged; or a description of the body."""
    truncated: bool = False
    """The answer exceeds a limit, and `body` has only the members at its beginning."""
    broken: bool = False
    """The answer broke off, and `body` has only the members at its beginning."""


@dataclass(frozen=True, slots=True)
class Fault:
    """No answer. `detail` has names of exception classes, never their text."""

    kind: FaultKind
    detail: str = ""


Reply = ProviderAnswer | Fault


_GAVE_UP_4XX = frozenset({408, 499})
"""A server or proxy gave up waiting: the request may have been taken, whatever the body says."""
_MAYBE_TAKEN_4XX = frozenset({409, 425})
"""Client errors that don't prove a refusal unless they have a reason."""


def heard(reply: Reply) -> bool:
    """Whether the provider itself answered, and not only a gateway in front of it, or nothing."""
    if isinstance(reply, Fault):
        return False
    return reply.body is not NOT_JSON or not (502 <= reply.status <= 504 or 520 <= reply.status <= 530)


def read_create(
    reply: Reply, now_ms: int, rules: Iterable[Rule] = (), job_id: str | None = None, attempt: int | None = None
) -> Accepted | Rejected | Unknown:
    """The outcome of a create. Of several responses in the answer, `job_id` and `attempt` tell which is meant."""
    if isinstance(reply, Fault):
        if reply.kind == "never_sent":
            return Rejected("unsent", NEVER_SENT, reply.detail)
        reason = f"{reply.kind}: {reply.detail}" if reply.detail else reply.kind
        return Unknown(reason, alarm=reply.kind == "unexpected")
    if (ours := ours_of(reply.body, None, job_id, attempt)) is not reply.body:
        reply = replace(reply, body=ours)
    if owned_by_another(reply.body, job_id):
        return Unknown(OF_ANOTHER_JOB, shown(repr(reply.body), ANSWER_CHARS_SHOWN) or "", alarm=True)
    taken = (
        200 <= reply.status < 300
        or _sees_other(reply)
        or (not is_error(reply.body) and stands_there(reply.body, None, job_id))
    )
    read = _taken if taken else _declined
    outcome, limits = read(reply, now_ms, rules), told_limits(reply.headers)
    return outcome if limits is None or isinstance(outcome, Unknown) else replace(outcome, limits=limits)


def read_poll(
    reply: Reply, now_ms: int, job_id: str | None = None, rules: Iterable[Rule] = (), response_id: str | None = None
) -> Seen | Missing | AskAgain | Refused:
    """The outcome of a retrieve; `job_id` is the response's job, if it is known, and `response_id` what was asked for.

    An answer that will be repeated as long as the poll is (a 400, a page) is *missing*, too, with its words.
    """
    if isinstance(reply, Fault):
        return AskAgain(f"{reply.kind}: {reply.detail}" if reply.detail else reply.kind)
    if 200 <= reply.status < 300 or stands_there(reply.body, response_id, job_id):
        if reply.broken:
            return AskAgain(BROKEN_OFF)
        if (ours := ours_of(reply.body, response_id, job_id)) is not reply.body:
            reply = replace(reply, body=ours)
        seen = _see(reply, now_ms, rules, job_id)
        if reply.truncated and (isinstance(seen, Seen) or seen.reason != OF_ANOTHER_JOB):
            return too_large(seen)
        return seen if isinstance(seen, Seen) else _of_no_response(reply, seen.reason, rules)
    return _not_seen(reply, now_ms, rules)


def read_cancel(
    reply: Reply, now_ms: int, job_id: str | None = None, rules: Iterable[Rule] = (), response_id: str | None = None
) -> Seen | NotCancelled | AskAgain | Refused:
    """The outcome of a cancel. A response in the answer is an observation, whatever its status."""
    if (
        isinstance(reply, ProviderAnswer)
        and reply.status in _NOT_CANCELLED
        and not stands_there(reply.body, response_id, job_id)
    ):
        return NotCancelled(_error_of(reply).code)
    answer = read_poll(reply, now_ms, job_id, rules, response_id)
    return NotCancelled(answer.code or "missing") if isinstance(answer, Missing) else answer


def read_delete(reply: Reply, now_ms: int) -> Deleted | AskAgain | Refused:
    """The outcome of a delete. A 404 of the provider: the response is gone, by an earlier delete or by its age."""
    if isinstance(reply, ProviderAnswer) and _deletes(reply):
        return Deleted()
    read = read_poll(reply, now_ms)
    if isinstance(read, Missing):
        return Deleted() if read.code is None else AskAgain(read.code)
    return AskAgain("not_deleted") if isinstance(read, Seen) else read


def _deletes(answer: ProviderAnswer) -> bool:
    """Whether a 2xx says that the response is deleted: by no body (204), or by an object that denies it nowhere."""
    body = answer.body
    if answer.status == 204:
        return True
    says_so = isinstance(body, dict) and not is_error(body) and body.get("deleted") is not False
    return 200 <= answer.status < 300 and says_so


def read_follow(reply: Reply, now_ms: int) -> NotStreamable | AskAgain | Refused:
    """Why no stream came."""
    if isinstance(reply, ProviderAnswer) and reply.status == 400:
        return NotStreamable()
    read = read_poll(reply, now_ms)
    # Missing: not yet, or no more. Seen: an object where a stream was asked for.
    return read if isinstance(read, AskAgain | Refused) else AskAgain("no_stream")


def _see(answer: ProviderAnswer, now_ms: int, rules: Iterable[Rule], job_id: str | None = None) -> Seen | Unseen:
    seen = see(answer.body, answer.headers, job_id, rules, now_ms)
    return replace(seen, whole=answer.whole) if isinstance(seen, Seen) else seen


def _of_no_response(answer: ProviderAnswer, why: str, rules: Iterable[Rule]) -> Missing | AskAgain:
    """A 2xx without the response: an error, which may pass, or something else, such as a page."""
    error = _error_of(answer)
    if is_error(answer.body):
        passes = verdict(error.said, rules).cause != "never"
        return AskAgain(error.code) if passes else Missing(error.code, error.message)
    return Missing(why, error.message)


def _not_seen(answer: ProviderAnswer, now_ms: int, rules: Iterable[Rule]) -> Missing | AskAgain | Refused:
    status, error = answer.status, _error_of(answer)
    if status in (404, 410) and isinstance(answer.body, dict):
        return Missing()
    refuses = status == 501 or (400 <= status < 500 and status not in _NO_ANSWER_YET)
    if refuses and verdict(error.said, rules).cause in ("never", "odd"):
        return Missing(error.code, error.message)  # With a 404: the page of a proxy, which does not know the response.
    wait_ms = retry_after_ms(answer.headers, now_ms)
    if status == 401 or (status == 403 and error.from_api):
        return Refused(error.code, error.message)
    if status == 429 and error.from_api:
        return AskAgain(error.code, wait_ms or limit_reset_ms(answer.headers, error.kind, now_ms), limited=True)
    if status in (403, 429):
        return AskAgain("edge_block", wait_ms, limited=True)
    return AskAgain(f"http_{status}", wait_ms)


@dataclass(frozen=True, slots=True)
class _Error:
    code: str
    """The code, else the type, else `http_NNN`."""
    kind: str | None
    message: str
    from_api: bool
    """The body is JSON, so the API answered and not an edge or proxy before it."""
    said: Said


def _error_of(answer: ProviderAnswer) -> _Error:
    """The error in an answer: OpenAI's form, others (`{"detail": …}`, `{"error": "…"}`, RFC 9457), or plain text."""
    body = answer.body
    inner = body.get("error") or body.get("errors") if isinstance(body, dict) else None
    fields = fields_of(inner if isinstance(inner, dict | list) else body)
    code = shown(code_of(fields), CODE_CHARS_MAX)
    kind = shown(fields.get("type"), CODE_CHARS_MAX)
    said = words_of(body) if body is not NOT_JSON else page_title(answer.text)
    message = shown(said, TEXT_CHARS_MAX) or ""
    structured = isinstance(inner, dict) and (code is not None or kind is not None)
    status = None if 200 <= answer.status < 300 else answer.status
    return _Error(
        code=code or (kind if structured else None) or f"http_{answer.status}",
        kind=kind,
        message=message,
        from_api=body is not NOT_JSON,
        said=Said(status, code, kind, message, structured),
    )


def _taken(answer: ProviderAnswer, now_ms: int, rules: Iterable[Rule]) -> Accepted | Rejected | Unknown:
    """The outcome of a 2xx: a response that runs or has ended, an error object, or an unusable body."""
    body, whole = answer.body, not (answer.truncated or answer.broken)
    response_id = _id_of(body) if isinstance(body, dict) else ""
    if is_error(body) and not _stands(body, response_id):
        return _declined(answer, now_ms, rules)
    if not _is_one(body, whole=whole):
        return _without_object(answer)
    seen = _see(answer, now_ms, rules)
    # The end of an answer that is cut is missing: a poll shows whether the response can be read at all.
    end = seen if isinstance(seen, Seen) and seen.over and whole else None
    response_id = response_id or _located(answer.headers)
    if not response_id and end is None:
        told = body.get("id", body.get("response_id"))
        if told in (None, ""):
            return _without_object(answer, "no_usable_id", taken=whole)
        end = unusable_id(told, body)
    return Accepted(
        response_id,
        status=shown(body.get("status"), CODE_CHARS_MAX) or "unknown",
        provider_request_id=shown(answer.headers.get("x-request-id"), CODE_CHARS_MAX),
        streamed=answer.streamed,
        end=end,
    )


def _stands(body: Mapping[str, Any], response_id: str) -> bool:
    """Whether the object with an error is a response that was accepted: it has an id, or a kind and a status."""
    kind = body.get("object")
    told = bool(response_id) or (kind is not None and isinstance(body.get("status"), str))
    return told and is_response_word(kind)


def _is_one(body: Any, *, whole: bool) -> bool:
    """Whether a body is a response. An object of no kind and without a status is one if it holds the id alone."""
    if not is_response(body):
        return False
    bare = body.get("object") is None and not isinstance(body.get("status"), str)
    return not (bare and whole and body.keys() != {"id"})


def _without_object(
    answer: ProviderAnswer, why: str = "no_response_object", *, taken: bool = False
) -> Accepted | Unknown:
    """A 2xx whose body names no response. A header may name it."""
    if response_id := _located(answer.headers):
        return Accepted(response_id, status="unknown", streamed=answer.streamed)
    taken = taken or answer.status == 202
    if answer.broken and not taken:
        return Unknown(BROKEN_OFF)
    begins = answer.text if answer.body is NOT_JSON else repr(answer.body)
    said = shown(begins, ANSWER_CHARS_SHOWN) or "an empty body"
    return Unknown(f"{TOO_LARGE if answer.truncated else why}: http_{answer.status}", said, alarm=True, taken=taken)


def _sees_other(answer: ProviderAnswer) -> bool:
    """Whether a redirect is an acceptance: it says that the response is to be read at its own address."""
    return answer.status in (302, 303) and bool(_located(answer.headers))


def _located(headers: Mapping[str, str]) -> str:
    """The id of the response that a header names by its address, `…/responses/ID`; empty if none does."""
    for name in _LOCATIONS:
        try:
            path = urlsplit(headers.get(name, "")).path
        except ValueError:
            continue
        before, _, last = path.rstrip("/").rpartition("/")
        told = unquote(last)
        if before.endswith("responses") or (not before and last.startswith("resp_")):
            return told if _RESPONSE_ID.fullmatch(told) else ""
    return ""


def _id_of(body: Mapping[str, Any]) -> str:
    """The id of a response, empty if it has no usable one. A number is one: it is written in the address."""
    told = next((body[name] for name in ("id", "response_id") if body.get(name) is not None), None)
    told = str(told) if isinstance(told, int) and not isinstance(told, bool) else told
    return told if isinstance(told, str) and _RESPONSE_ID.fullmatch(told) else ""


def _declined(answer: ProviderAnswer, now_ms: int, rules: Iterable[Rule]) -> Rejected | Unknown:
    """The outcome of an error, with any HTTP status."""
    error, status = _error_of(answer), answer.status
    told_ms = retry_after_ms(answer.headers, now_ms)
    if status in (403, 429) and not error.from_api:
        return Rejected("limited", "edge_block", error.message, told_ms, http_status=status, limited=True)
    if not _refuses(answer, error, told_ms, rules):
        said = error.message[:ANSWER_CHARS_SHOWN]
        return Unknown(f"http_{status}", said, answered=status >= 500, wait_ms=told_ms)
    cause = verdict(error.said, rules).cause
    if cause == "limited":
        told_ms = told_ms or limit_reset_ms(answer.headers, error.kind, now_ms)
    told_ms = told_ms or body_wait_ms(answer.body, now_ms) or text_wait_ms(error.message, now_ms)
    return Rejected(
        cause,
        error.code,
        error.message,
        min(told_ms, ACCOUNT_WAIT_MS_MAX) if cause == "account" else told_ms,
        alarm=cause == "account",
        http_status=None if 200 <= status < 300 else status,
        unknown_model=error.code in MODEL_CODES,
        account_wide=cause == "account" and is_account_wide(error.said),
    )


def _refuses(answer: ProviderAnswer, error: _Error, told_ms: int, rules: Iterable[Rule]) -> bool:
    """Whether the answer proves that the provider did not take the create."""
    status = answer.status
    if 200 <= status < 300 or status in (429, 501):
        return True
    page = not error.from_api and answer.text.lstrip().startswith("<")
    said_no = not page and says_no(error.said, rules) and verdict(error.said, rules).cause not in ("faulty", "odd")
    if said_no and (status >= 500 or status in _GAVE_UP_4XX):
        return True
    if status in (502, 503, 504, 507, 529):
        return told_ms > 0 or "retry-after" in answer.headers or error.from_api
    if status >= 500 or status < 300 or status in _GAVE_UP_4XX:
        return False
    return status not in _MAYBE_TAKEN_4XX or error.said.structured or (error.from_api and bool(error.message))
