"""The cause of a refusal or a failure: one table, for refused creates and for accepted responses that failed. Pure.

Evaluated from the most specific to the least: the operator's rules; the code; words such as "try again" or "too large";
the type; the HTTP status. A refusal that nothing explains is `odd` (it costs nothing, so it is retried a few times). A
failure that nothing explains is `faulty`.

Sources: the OpenAI guides "Error codes" and "Rate limits" (2026), the SDK's list of codes (openai-python 3.54.0),
public bug reports of gateways and compatible servers. The API promises neither presence nor names of codes
(openai/openai-python#3212).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from schemas.base import Cause

_CODES: Final[dict[Cause, frozenset[str]]] = {
    "limited": frozenset({
        "rate_limit_exceeded", "rate_limit_reached", "rate_limit_error", "rate_limited", "too_many_requests",
        "tokens", "requests", "tokens_exceeded", "requests_exceeded", "tokens_per_min", "requests_per_min",
        "concurrency_limit_exceeded", "throttled", "throttlingexception", "resource_exhausted",
    }),
    "overloaded": frozenset({
        "server_is_overloaded", "slow_down", "overloaded", "overloaded_error", "model_overloaded",
        "engine_overloaded", "service_unavailable", "service_unavailable_error", "unavailable", "no_capacity",
        "capacity_exceeded", "resource_unavailable", "flex_unavailable", "completion_window_missed",
    }),
    "faulty": frozenset({
        "server_error", "internal_error", "internal_server_error", "api_error", "internalservererror",
        "vector_store_timeout", "failed_to_download_image", "bad_gateway", "gateway_timeout", "timeout",
        "request_timeout", "processing_error", "tool_server_error", "upstream_error", "connection_error",
    }),
    "later": frozenset({
        "conversation_locked", "locked", "resource_locked", "lock_timeout", "conflict", "queue_full", "try_again",
        "try_again_later", "not_ready", "model_loading", "model_not_ready", "previous_response_not_ready",
        "response_in_progress",
    }),
    "account": frozenset({
        "insufficient_quota", "quota_exceeded", "billing_not_active", "billing_hard_limit_reached",
        "credit_balance_exhausted", "organization_usage_limit_exceeded", "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded", "payment_required", "insufficient_funds", "insufficient_credits",
        "invalid_api_key", "incorrect_api_key", "expired_api_key", "api_key_expired", "missing_api_key",
        "invalid_authentication", "authentication_error", "unauthorized", "permission_error", "permission_denied",
        "insufficient_permissions", "missing_scope", "account_deactivated", "account_suspended", "access_terminated",
        "organization_deactivated", "invalid_organization", "mismatched_organization", "invalid_project",
        "mismatched_project", "project_archived", "ip_not_authorized", "unsupported_country_region_territory",
    }),
    "never": frozenset({
        "context_length_exceeded", "string_above_max_length", "request_too_large", "payload_too_large",
        "max_tokens_exceeded", "invalid_prompt", "invalid_request", "invalid_value", "invalid_type", "invalid_json",
        "invalid_schema", "invalid_tool", "invalid_function_parameters", "invalid_json_schema",
        "missing_required_parameter", "unknown_parameter", "unsupported_parameter", "unsupported_value",
        "unsupported_model", "model_not_found", "model_not_available", "deployment_not_found",
        "previous_response_not_found", "conversation_not_found", "not_found", "data_residency_mismatch", "bio_policy",
        "misalignment_policy_violation", "cyber_policy_violation", "moderation_blocked", "content_policy_violation",
        "content_filter", "policy_violation", "safety_violation", "image_content_policy_violation", "invalid_image",
        "invalid_image_format", "invalid_base64_image", "invalid_image_url", "image_too_large", "image_too_small",
        "image_parse_error", "invalid_image_mode", "image_file_too_large", "unsupported_image_media_type",
        "empty_image_file", "image_file_not_found",
    }),
}  # fmt: skip
CAUSE_OF_CODE: Final[dict[str, Cause]] = {code: cause for cause, codes in _CODES.items() for code in codes}

MODEL_CODES: Final = frozenset({"model_not_found", "model_not_available", "deployment_not_found"})

_CAUSE_OF_TYPE: Final[dict[str, Cause]] = {
    "insufficient_quota": "account", "authentication_error": "account", "permission_error": "account",
    "billing_error": "account", "invalid_request_error": "never", "rate_limit_error": "limited",
    "requests": "limited", "tokens": "limited", "service_unavailable_error": "overloaded",
    "overloaded_error": "overloaded", "server_error": "faulty", "api_error": "faulty",
}  # fmt: skip

_CAUSE_OF_STATUS: Final[dict[int, Cause]] = {
    401: "account", 402: "account", 403: "account", 405: "never", 406: "never", 408: "faulty", 409: "later",
    410: "never", 411: "never", 413: "never", 414: "never", 415: "never", 422: "never", 423: "later", 425: "later",
    429: "limited", 431: "never", 499: "faulty", 501: "never", 502: "faulty", 503: "overloaded", 504: "faulty",
    507: "overloaded", 529: "overloaded",
}  # fmt: skip
"""Statuses that are not listed say nothing alone; among them 400, and 404, which may come from a proxy."""

_TOO_LARGE = re.compile(r"^\s*request too large\b", re.IGNORECASE)
"""A single request above the whole rate limit never fits. The same words elsewhere in a message mean something else
(everruns/everruns#3740), so they count only at its beginning."""
_LATER = re.compile(
    r"try again|retry (?:after|later|in)\b|queue (?:is )?full|temporar(?:y|ily)"
    r"|(?:is|currently) (?:busy|locked|overloaded|loading)"
    r"|too many (?:pending|concurrent|queued)|another (?:process|request|response) is",
    re.IGNORECASE,
)  # fmt: skip
"""Words for passing conditions, used by servers that have no codes."""

CODE_PATTERN_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer or a failed response says about its cause. Texts are already shortened and cleaned."""

    status: int | None = None
    """HTTP status of a refusal; None for a failure after the acceptance."""
    code: str | None = None
    kind: str | None = None
    """`error.type`."""
    message: str = ""
    structured: bool = False
    """The body has an error object in OpenAI's form: `error` with a code or a type."""


@dataclass(frozen=True, slots=True)
class Rule:
    """An operator's rule. A field that is None matches everything."""

    cause: Cause
    status: int | None = None
    code: str | None = None
    pattern: re.Pattern[str] | None = None
    """Searched in the message."""

    def matches(self, said: Said) -> bool:
        return (
            (self.status is None or self.status == said.status)
            and (self.code is None or self.code == said.code)
            and (self.pattern is None or self.pattern.search(said.message) is not None)
        )


@dataclass(frozen=True, slots=True)
class CauseVerdict:
    """`known`: a code, a type or a rule decided. Otherwise the words or the status did, which callers count."""

    cause: Cause
    known: bool


def verdict(said: Said, rules: Iterable[Rule] = ()) -> CauseVerdict:
    """The cause of a refusal or a failure. Total."""
    for rule in rules:
        if rule.matches(said):
            return CauseVerdict(rule.cause, known=True)
    kind = _CAUSE_OF_TYPE.get((said.kind or "").lower())
    named = CAUSE_OF_CODE.get((said.code or "").lower())
    told = named or kind
    if told == "limited" and _TOO_LARGE.search(said.message):
        return CauseVerdict("never", known=True)
    if named == "limited" and kind == "account":  # An exhausted quota, reported with the code of a rate limit.
        return CauseVerdict("account", known=True)
    if named is None and told in (None, "never") and _says_later(said):
        return CauseVerdict(_passing(said.status), known=False)
    if told is not None:
        return CauseVerdict(told, known=True)
    return CauseVerdict("faulty" if said.status is None else _of_status(said), known=False)


def _says_later(said: Said) -> bool:
    return _LATER.search(said.message) is not None and (said.status is None or 400 <= said.status < 500)


def _passing(status: int | None) -> Cause:
    return "limited" if status == 429 else "account" if status in (401, 402) else "later"


def _of_status(said: Said) -> Cause:
    status = said.status or 0
    told = _CAUSE_OF_STATUS.get(status)
    if told is not None:
        return told
    if 300 <= status < 400:
        return "account"  # A proxy or the base URL is wrong: an operator must act, and every request is refused.
    if 400 <= status < 500:
        return "never" if said.structured else "odd"
    return "faulty"
