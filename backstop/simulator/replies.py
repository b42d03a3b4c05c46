"""The content of error answers: a reason (a code), the shape around it, and the place of the wait.

Refused calls and responses that fail after acceptance use the same reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final, Literal, get_args

import orjson

from backstop.simulator.answers import HTML, JSON, HttpAnswer
from backstop.simulator.errors import ConfigError

Shape = Literal[
    "openai", "bare", "detail", "detail_list", "text", "message", "problem", "plain", "html", "empty", "object"
]
SHAPES: Final[tuple[str, ...]] = get_args(Shape)
WaitIn = Literal["both", "header", "text"]
QUOTA_CODES: Final = (
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_usage_limit_exceeded",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
)
PLAIN: Final = "text/plain; charset=utf-8"
PROBLEM: Final = "application/problem+json"
_INVALID: Final = "invalid_request_error"
_AGAIN: Final = "{again}"


@dataclass(frozen=True, slots=True)
class CodeMeaning:
    """The meaning of one code: the status of a refusal, the type, and a text in which `{again}` is the wait."""

    status: int
    kind: str | None
    text: str
    wait_s: float | None = None
    shape: Shape = "openai"
    # The code in the answer; empty: the code under which the reason is listed.
    told_as: str | None = ""


_QUOTA: Final = CodeMeaning(
    429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing details."
)
_POLICY: Final = "This request was rejected because it may violate our usage policies."
REASONS: Final[dict[str, CodeMeaning]] = {
    "rate_limit_exceeded": CodeMeaning(
        429, "requests", "Rate limit reached for the model on requests per min (RPM). {again}", 20.0
    ),
    "server_is_overloaded": CodeMeaning(
        503, "service_unavailable_error", "The server is currently overloaded with other requests. {again}"
    ),
    "slow_down": CodeMeaning(503, "service_unavailable_error", "Slow down: your traffic grew too fast. {again}"),
    "server_error": CodeMeaning(
        500, "server_error", "The server had an error while processing your request. Sorry about that! {again}"
    ),
    **dict.fromkeys(QUOTA_CODES, _QUOTA),
    "billing_not_active": CodeMeaning(
        429, "billing_not_active", "Your account is not active, please check your billing details on our website."
    ),
    "billing_hard_limit_reached": CodeMeaning(400, _INVALID, "Billing hard limit has been reached."),
    "invalid_api_key": CodeMeaning(401, _INVALID, "Incorrect API key provided: ****."),
    "account_deactivated": CodeMeaning(
        401, _INVALID, "The OpenAI account associated with this API key is deactivated."
    ),
    "ip_not_authorized": CodeMeaning(401, _INVALID, "Your IP address is not authorized to use this key."),
    "unsupported_country_region_territory": CodeMeaning(
        403, "request_forbidden", "Country, region, or territory not supported."
    ),
    "model_not_found": CodeMeaning(404, _INVALID, "The model does not exist or you do not have access to it."),
    "context_length_exceeded": CodeMeaning(
        400, _INVALID, "Your input exceeds the context window of this model. Please adjust your input and try again."
    ),
    "request_too_large": CodeMeaning(413, _INVALID, "Your request body is too large."),
    "too_large_for_the_limit": CodeMeaning(
        429,
        "tokens",
        "Request too large for the model on tokens per min (TPM): Limit 30000, Requested 90000.",
        told_as="rate_limit_exceeded",
    ),
    "invalid_prompt": CodeMeaning(400, _INVALID, "Invalid prompt: your prompt was flagged by our usage policy."),
    "moderation_blocked": CodeMeaning(
        400, "image_generation_user_error", "Your request was rejected by the safety system."
    ),
    "content_policy_violation": CodeMeaning(400, _INVALID, _POLICY),
    "cyber_policy_violation": CodeMeaning(400, _INVALID, _POLICY),
    "misalignment_policy_violation": CodeMeaning(400, _INVALID, _POLICY),
    "bio_policy": CodeMeaning(400, _INVALID, _POLICY),
    "data_residency_mismatch": CodeMeaning(400, _INVALID, "The data of this request must not leave its region."),
    "conversation_locked": CodeMeaning(
        400, _INVALID, "Another process is currently operating on this conversation. Please retry in a few seconds."
    ),
    "queue_full": CodeMeaning(
        400, None, "The queue is full (1000 responses wait). Try again later.", shape="detail", told_as=None
    ),
    "conflict": CodeMeaning(409, "conflict_error", "The request conflicted with another one. {again}"),
    "resource_unavailable": CodeMeaning(429, "resource_unavailable", "No flex capacity at the moment. {again}"),
}


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, written `[STATUS][/CODE[/SHAPE[/WAIT]]]` or `CODE[/SHAPE[/WAIT]]`; see docs/simulator.md."""

    status: int
    code: str | None = None
    shape: Shape = "openai"
    wait_s: float | None = None
    wait_in: WaitIn = "both"
    message: str | None = None

    @property
    def reason(self) -> CodeMeaning:
        """The meaning of its code; an unknown or missing code has a text for the status."""
        known = REASONS.get(self.code or "")
        return known or CodeMeaning(self.status, _kind_of(self.status), f"{_phrase(self.status)}. {_AGAIN}")

    @property
    def header_wait_s(self) -> float | None:
        """The wait its headers name, real seconds."""
        return None if self.wait_in == "text" else self.wait_s

    def error(self) -> dict[str, Any]:
        """The inner object of OpenAI's shape."""
        reason = self.reason
        code = self.code if reason.told_as == "" else reason.told_as
        return {"message": self.text(), "type": reason.kind, "param": None, "code": code}

    def text(self) -> str:
        """The message, which may name the wait."""
        if self.message is not None:
            return self.message
        return told(self.reason, None if self.wait_in == "header" else self.wait_s, self.shape)

    def answer(self, headers: Mapping[str, str]) -> HttpAnswer:
        """The HTTP answer; `headers` are those that name the wait."""
        body, content_type = _BODIES[self.shape](self)
        return HttpAnswer(self.status, body, content_type, headers)


def go_duration(seconds: float) -> str:
    """A duration as Go prints it: `1h2m3.5s`, `6m0s`, `7.66s`, `120ms`, `0s`."""
    ms = max(round(seconds * 1000), 0)
    if ms < 1000:
        return f"{ms}ms" if ms else "0s"
    minutes, rest_ms = divmod(ms, 60_000)
    text = f"{rest_ms / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if not minutes:
        return text
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"


def told(reason: CodeMeaning, wait_s: float | None, shape: Shape = "openai") -> str:
    """The text of a reason, with the wait if known, in OpenAI's wording or in that of other servers."""
    if wait_s is None:
        again = "Please try again later."
    elif shape in ("openai", "bare"):
        again = f"Please try again in {go_duration(wait_s)}."
    else:
        again = f"Retry after {wait_s:g} seconds."
    return reason.text.replace(_AGAIN, again).strip()


def parse_reply(text: str) -> Reply:
    """Read a reply; ConfigError says what is wrong with it."""
    first, *rest = text.split("/")
    if not first.isdecimal():
        rest = [first, *rest]
        first = ""
    code, shape, wait, *more = (*rest, "", "", "", "")[: max(3, len(rest))]
    if more:
        raise ConfigError(f"{text!r}: more than STATUS/CODE/SHAPE/WAIT")
    reason = REASONS.get(code)
    if not first and reason is None:
        raise ConfigError(
            f"{text!r}: {code!r} is no known code, so that a status must stand before it, as in 400/{code}"
        )
    status = int(first) if first else (reason.status if reason is not None else 500)
    if not 200 <= status <= 599:
        raise ConfigError(f"{text!r}: the status must be 200 to 599")
    if shape and shape not in SHAPES:
        raise ConfigError(f"{text!r}: the shape must be one of {', '.join(SHAPES)}")
    reply = Reply(status, code or None, _shape(shape, reason, status))
    return _with_wait(reply, wait, text)


def reshape(answer: HttpAnswer, shape: Shape) -> HttpAnswer:
    """An error in OpenAI's shape, in another one; any other answer as it is."""
    if answer.status < 400 or answer.content_type != JSON or answer.sabotage is not None:
        return answer
    try:
        inner = orjson.loads(answer.body)["error"]
        reply = Reply(answer.status, inner["code"], shape, message=inner["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return answer
    return replace(reply.answer(answer.headers), wait_real_s=answer.wait_real_s)


def parse_code(text: str) -> tuple[str | None, float | None]:
    """`CODE[/WAIT]` of a failed run: the code, and the wait its text names."""
    code, slash, wait = text.partition("/")
    reason = REASONS.get(code)
    default = reason.wait_s if reason is not None else None
    return code or None, _seconds(wait, text) if slash else default


def _shape(shape: str, reason: CodeMeaning | None, status: int) -> Shape:
    if not shape:
        default: Shape = "html" if status in (502, 504, 529) else "openai"
        return reason.shape if reason is not None else default
    found: Shape = next(each for each in get_args(Shape) if each == shape)
    return found


def _with_wait(reply: Reply, wait: str, text: str) -> Reply:
    if not wait:
        return replace(reply, wait_s=None)
    for where in ("header", "text"):
        if wait.endswith(where):
            return replace(reply, wait_s=_seconds(wait.removesuffix(where), text), wait_in=where)
    return replace(reply, wait_s=_seconds(wait, text))


def _seconds(wait: str, text: str) -> float:
    try:
        value = float(wait)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise ConfigError(f"{text!r}: the wait {wait!r} must be a number of seconds >= 0")
    return value


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Site is overloaded" if status == 529 else f"Status {status}"


def _kind_of(status: int) -> str:
    return "server_error" if status >= 500 else _INVALID


def _openai(reply: Reply) -> tuple[bytes, str]:
    return orjson.dumps({"error": reply.error()}), JSON


def _problem(reply: Reply) -> tuple[bytes, str]:
    fields = {
        "type": "about:blank",
        "title": _phrase(reply.status),
        "status": reply.status,
        "detail": reply.text(),
        "instance": "/v1/responses",
    }
    return orjson.dumps(fields), PROBLEM


def _html(reply: Reply) -> tuple[bytes, str]:
    title = f"{reply.status} {_phrase(reply.status)}".encode()
    text = reply.text().encode()
    return b"<html><head><title>%b</title></head><body><h1>%b</h1><p>%b</p></body></html>" % (title, title, text), HTML


def _detail_list(reply: Reply) -> tuple[bytes, str]:
    return orjson.dumps({"detail": [{"loc": ["body"], "msg": reply.text(), "type": "value_error"}]}), JSON


_BODIES: Final[dict[Shape, Callable[[Reply], tuple[bytes, str]]]] = {
    "openai": _openai,
    "bare": lambda reply: (orjson.dumps(reply.error()), JSON),
    "detail": lambda reply: (orjson.dumps({"detail": reply.text()}), JSON),
    "detail_list": _detail_list,
    "text": lambda reply: (orjson.dumps({"error": reply.text()}), JSON),
    "message": lambda reply: (orjson.dumps({"message": reply.text()}), JSON),
    "problem": _problem,
    "plain": lambda reply: (reply.text().encode(), PLAIN),
    "html": _html,
    "empty": lambda _: (b"", PLAIN),
    "object": lambda _: (b"{}", JSON),
}
