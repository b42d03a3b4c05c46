"""Turns the body of `POST /v1/responses` into a submission, or refuses it.

Features for which Backstop can't keep its guarantees are refused, with a message that tells what to do instead.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from pydantic import ValidationError

from receiver.problems import FieldError, Problem, Refusal, field_errors
from schemas.requests import Submit

SESSION_HEADER: Final = "Backstop-Session"
TIMEOUT_HEADER: Final = "Backstop-Timeout-Ms"
RETRIES_HEADER: Final = "Backstop-Retries-Max"
PRIORITY_HEADER: Final = "Backstop-Priority"
HEDGE_HEADER: Final = "Backstop-Hedge"
TOKENS_HEADER: Final = "Backstop-Max-Tokens-Spent"
FALLBACK_HEADER: Final = "Backstop-Fallback"
COST_HEADER: Final = "Backstop-Max-Cost-Usd"
NOT_BEFORE_HEADER: Final = "Backstop-Not-Before-Ms"

_SENTENCES: Final[dict[str, str]] = {
    "background": "background must be true, or, for an answer on this connection, false or omitted.",
    "waits": "This process does not wait for answers: send background: true, and poll GET /v1/responses/{id} until its "
    "status is neither queued nor in_progress.",
    "stream": "This process does not stream: omit stream, send background: true, and poll "
    "GET /v1/responses/{id}.",
    "store": "A background response is stored, as you poll for it: omit store or send store: true. "
    "DELETE /v1/responses/{id} removes it when you no longer need it.",
    "conversation": "conversation is not supported: all tenants share one project at the provider. "
    "Continue an earlier response by previous_response_id.",
}  # fmt: skip
_USD: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_IN_REQUEST: Final = re.compile(r"^request\.")


def waits(body: Mapping[str, Any]) -> bool:
    """Whether the client wants the answer on its connection: the API's default without `background: true`."""
    return body.get("background") in (None, False)


def to_submit(body: dict[str, Any], headers: Mapping[str, str], *, may_stream: bool) -> Submit:
    """The submission for a create.

    :raises Refusal: 422, naming the field.
    """
    background, store = body.get("background"), body.get("store")
    if not isinstance(background, bool | None):
        raise _refused("background")
    if not background and not may_stream:
        raise refusal("background", _SENTENCES["waits"])
    if body.get("stream") and not may_stream:
        raise _refused("stream")
    if not isinstance(store, bool | None) or (background and store is False):
        raise _refused("store")
    if body.get("conversation") is not None:
        raise _refused("conversation")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise refusal("model", "Missing required parameter: 'model'. Name the model, for example gpt-5.2.")
    request = {name: value for name, value in body.items() if not _absent(name, value)}
    try:
        return Submit.model_validate({"request": request, **_from_headers(headers)})
    except ValidationError as error:
        first, *more = (_plain(found) for found in field_errors(error))
        raise Refusal(Problem(422, "bad_request", first.detail, errors=(first, *more))) from None


def refusal(field: str, sentence: str) -> Refusal:
    return Refusal(Problem(422, "bad_request", sentence, errors=(FieldError(f"#/{field}", sentence),)))


def _refused(field: str) -> Refusal:
    return refusal(field, _SENTENCES[field])


def _absent(name: str, value: Any) -> bool:
    """Fields that are not forwarded: those that Backstop sets, defaults, and nulls, which clients of the Node SDK send
    for omitted fields.
    """
    if name == "stream":
        return value is None or value is False
    if name == "background":
        return value is not True
    return name == "store" or (value is None and name in {"metadata", "previous_response_id", "conversation"})


def _from_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    """Options of a job for which OpenAI's body has no field."""
    given: dict[str, Any] = {}
    if SESSION_HEADER in headers:
        given["session_id"] = headers[SESSION_HEADER]
    if PRIORITY_HEADER in headers:
        given["priority"] = headers[PRIORITY_HEADER]
    if HEDGE_HEADER in headers:
        hedge = headers[HEDGE_HEADER]
        if hedge not in ("true", "false"):
            raise refusal(HEDGE_HEADER, f"{HEDGE_HEADER} must be true or false.")
        given["hedge"] = hedge == "true"
    if FALLBACK_HEADER in headers:
        models = [name.strip() for name in headers[FALLBACK_HEADER].split(",")]
        given["fallback"] = {"to": [{"model": name} for name in models if name]}
    if COST_HEADER in headers:
        if not _USD.fullmatch(headers[COST_HEADER]):
            raise refusal(COST_HEADER, f"{COST_HEADER} must be a number of dollars, for example 0.25.")
        given["max_cost_usd"] = Decimal(headers[COST_HEADER])
    numbers = (
        (TIMEOUT_HEADER, "timeout_ms"), (RETRIES_HEADER, "retries_max"), (NOT_BEFORE_HEADER, "not_before_ms"),
        (TOKENS_HEADER, "max_tokens_spent"),
    )  # fmt: skip
    for header, field in numbers:
        text = headers.get(header)
        if text is None:
            continue
        if not (text.isascii() and text.isdecimal()) or len(text) > 15:
            raise refusal(header, f"{header} must be a whole number.")
        given[field] = int(text)
    return given


def _plain(error: FieldError) -> FieldError:
    """The error relative to the client's body, which has no `request` around it."""
    sentence = _IN_REQUEST.sub("", error.detail)
    named = re.match(r"([a-z_]+)(\.[^ :]+)?", sentence) if error.pointer == "#/request" else None
    pointer = f"#/{named[0]}" if named is not None and sentence != error.detail else error.pointer
    return FieldError(pointer.replace("#/request/", "#/"), sentence)
