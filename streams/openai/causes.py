"""The cause of a refusal or a failure: one table, for refused creates and for accepted responses that failed. Pure.

Evaluated from the most specific to the least: the operator's rules; the code; words such as "try again", "too large" or
"credit balance"; the type; a code that is new, by the words in it; the HTTP status. A refusal that nothing explains is
`odd` (it costs nothing, so it is retried a few times). A failure that nothing explains is `faulty`.

Sources: the OpenAI guides "Error codes" and "Rate limits" (2026), the SDK's list of codes (openai-python 3.54.0),
public bug reports of gateways and compatible servers. The API promises neither presence nor names of codes
(openai/openai-python#3212).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
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
        "empty_image_file", "image_file_not_found", "content_policy_violation_error",
    }),
}  # fmt: skip
CAUSE_OF_CODE: Final[dict[str, Cause]] = {code: cause for cause, codes in _CODES.items() for code in codes}

MODEL_CODES: Final = frozenset({"model_not_found", "model_not_available", "deployment_not_found"})

_OF_A_MODEL: Final = MODEL_CODES | {"permission_error", "permission_denied", "insufficient_permissions"}
_VERIFIED = re.compile(r"must be verified to", re.IGNORECASE)

_CAUSE_OF_TYPE: Final[dict[str, Cause]] = {
    "insufficient_quota": "account", "authentication_error": "account", "permission_error": "account",
    "billing_error": "account", "invalid_request_error": "never", "rate_limit_error": "limited",
    "requests": "limited", "tokens": "limited", "service_unavailable_error": "overloaded",
    "overloaded_error": "overloaded", "server_error": "faulty", "api_error": "faulty",
}  # fmt: skip

_CAUSE_OF_STATUS: Final[dict[int, Cause]] = {
    401: "account", 402: "account", 403: "account", 405: "never", 406: "never", 408: "faulty", 409: "later",
    410: "never", 411: "never", 413: "never", 414: "never", 415: "never", 422: "never", 423: "later", 425: "later",
    424: "faulty", 429: "limited", 431: "never", 499: "faulty", 501: "never", 502: "faulty", 503: "overloaded",
    504: "faulty",
    507: "overloaded", 529: "overloaded",
}  # fmt: skip
"""Statuses that are not listed say nothing alone; among them 400, and 404, which may come from a proxy."""

_TOO_LARGE = re.compile(r"^\s*request too large\b", re.IGNORECASE)
"""A single request above the whole rate limit never fits. The same words elsewhere in a message mean something else
(everruns/everruns#3740), so they count only at its beginning."""
_LATER = re.compile(
    r"try (?:your request )?again|retry (?:after|later|in)\b|retry your request|queue (?:is )?full|temporar(?:y|ily)"
    r"|(?:is|currently) (?:busy|locked|overloaded|loading|warming)|warming up|at capacity|no capacity"
    r"|too many (?:pending|concurrent|queued)|another (?:process|request|response) is"
    r"|\b(?:run|response|request|process)\b.{0,80}\bis (?:still )?active\b|already has an active"
    r"|still (?:in progress|running|being|processing|loading)|not (?:yet )?ready\b|not yet (?:available|processed)"
    r"|\bin progress\b",
    re.IGNORECASE,
)  # fmt: skip
"""Words for passing conditions, used by servers that have no codes."""
_CORRECT = re.compile(
    r"\b(?:fix|adjust|check|reduce|shorten|change|correct|modify|remove|edit|verify|update|provide|use|shrink|resize"
    r"|select|choose|rephrase|revise|convert|split|upload)\b[^.!?]{0,120}?\b(?:and|then|before|or)\b[^.!?]{0,20}?"
    r"\b(?:try again|trying again|retry|resubmit)",
    re.IGNORECASE,
)  # fmt: skip
"""Words that ask the caller to change the request: the same request is refused again."""
_ACCOUNT = re.compile(
    r"exceeded your current quota|credit balance|insufficient (?:credits?|funds|balance|quota)|out of credits"
    r"|(?:billing|spend(?:ing)?|usage|budget) (?:hard )?limit (?:has been |was )?(?:reached|exceeded)"
    r"|(?:organi[sz]ation|account|project|api key|workspace|subscription)\b.{0,60}"
    r"\b(?:has been|is|was) (?:disabled|deactivated|suspended|archived|blocked|terminated|expired|not active|inactive)"
    r"|must be verified to|no such organi[sz]ation|(?:incorrect|invalid) api key|payment (?:is )?required"
    r"|plan and billing",
    re.IGNORECASE,
)  # fmt: skip
"""Words for conditions of the account."""
_NEVER_FITS = re.compile(
    r"context (?:window|length)|maximum (?:context|input|prompt) |(?:prompt|input) is too (?:long|large)"
    r"|content (?:management )?policy|usage polic(?:y|ies)|safety system|flagged as|content filter",
    re.IGNORECASE,
)  # fmt: skip
"""Words for requests that never fit or are forbidden."""

_QUOTED = re.compile(r"(?<!\w)(['\"`])[^'\"`]{0,200}\1(?!\w)")
"""A message quotes what the caller sent. That must not hold the lane of all tenants."""

_WORDS_OF_CODES: Final[dict[Cause, str]] = {
    "account": r"quota|billing|credit|payment|spend|unauthori|api_?key|authenticat|permission|forbidden|deactivat"
    r"|suspend|organi[sz]ation|subscription",
    "limited": r"rate_?limit|throttl|too_many_(?:requests|tokens)|_per_(?:min|day|hour|second)|limit_reached",
    "never": r"context_(?:length|window)|too_(?:long|large|big|many)|max_(?:context|input|length|tokens)|_policy"
    r"|policy_|moderation|safety|unsafe|content_filter|flagged|prohibited|refusal|harmful"
    r"|(?:prompt|content|input|output)_blocked"
    r"|user_error|^(?:invalid|unsupported|malformed|missing|bad)_(?!response|upstream|gateway)|_not_found",
    "overloaded": r"overload|capacity|unavailable|no_(?:workers|replicas|backend)|exhausted",
    "later": r"lock|busy|conflict|queue|not_ready|in_progress|loading|warming",
    "faulty": r"timeout|timed_out|internal|upstream|gateway|backend|connection_|crash",
}  # fmt: skip
"""For a code that no line above lists: a word in it, in small letters with underscores. The first cause that fits
counts."""
_CAUSE_OF_WORDS: Final = {cause: re.compile(words) for cause, words in _WORDS_OF_CODES.items()}

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
    code = _plain(said.code)
    if (not code or code.isdecimal()) and kind is None and said.kind is not None:
        said = replace(said, code=said.kind)  # A type of its own (`ContentPolicyViolationError`) is the better code.
        code = _plain(said.code)
    named = CAUSE_OF_CODE.get((said.code or "").lower()) or CAUSE_OF_CODE.get(code)
    listed = _listed(said, code, named, kind)
    if listed is not None:
        return CauseVerdict(listed, known=True)
    if (worded := _of_words(said, kind)) is not None:
        return CauseVerdict(worded, known=False)
    new = _of_new_code(code) if kind in (None, "never") else None
    if kind is not None and new is None:
        return CauseVerdict(kind, known=True)
    return CauseVerdict(new or _of_status(said), known=False)


def is_account_wide(said: Said) -> bool:
    """Whether a condition of the account holds for each of its models: all but a permission, which may be of one."""
    code = _plain(said.code or said.kind)
    if code in _OF_A_MODEL or _VERIFIED.search(said.message):
        return False
    if CAUSE_OF_CODE.get(code) == "account" or _ACCOUNT.search(_QUOTED.sub(" ", said.message)):
        return True
    return said.status != 403  # "Forbidden" does not say what.


def says_no(said: Said, rules: Iterable[Rule] = ()) -> bool:
    """Whether an answer whose status proves no refusal tells one: by a rule, by a listed code, or by a message for what
    no repeat mends. A type alone is no proof, and neither is a word in a code that is new.
    """
    if any(rule.matches(said) for rule in rules):
        return verdict(said, rules).cause not in ("faulty", "odd")
    if _plain(said.code).isdecimal():
        said = replace(said, code=None)
    kind = None if (said.kind or "").lower() in _CAUSE_OF_TYPE else said.kind
    told = verdict(replace(said, kind=kind), ())
    if told.known:
        return told.cause not in ("faulty", "odd")
    return _of_words(said, None) in ("never", "account")


def _listed(said: Said, code: str, named: Cause | None, kind: Cause | None) -> Cause | None:
    """The cause of a code that the table lists, with the exceptions to it."""
    if (named or kind) == "limited" and _TOO_LARGE.search(said.message):
        return "never"
    if named == "limited" and kind == "account":  # An exhausted quota, reported with the code of a rate limit.
        return "account"
    if code in MODEL_CODES and said.status in (401, 403):  # The model exists, and this account may not use it.
        return "account"
    return named


def _plain(code: str | None) -> str:
    """A code in small letters with underscores: `ResponsibleAIPolicyViolation`, `context-window-exceeded`."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", code or "")
    return re.sub(r"[^a-z0-9]+", "_", apart.lower())


def _of_words(said: Said, told: Cause | None) -> Cause | None:
    """The cause that the message tells, where no code does; `told` is what the type says."""
    refused = said.status is None or 400 <= said.status < 500
    if told not in (None, "never", "limited"):
        return None
    words = _QUOTED.sub(" ", said.message)
    if _ACCOUNT.search(words):
        return "account"
    if told == "limited":
        return None
    if _NEVER_FITS.search(words):
        return "never"
    if not refused:  # "Try again" behind an error of the server means nothing more than the error.
        return None
    return _passing(said.status) if _LATER.search(_CORRECT.sub(" ", words)) else None


def _of_new_code(code: str) -> Cause | None:
    if code.isdecimal():
        return _CAUSE_OF_STATUS.get(int(code[:3])) if len(code) == 3 else None
    return next((cause for cause, pattern in _CAUSE_OF_WORDS.items() if pattern.search(code)), None)


def _passing(status: int | None) -> Cause:
    return "limited" if status == 429 else "account" if status in (401, 402) else "later"


def _of_status(said: Said) -> Cause:
    if said.status is None:
        return "faulty"
    status = said.status
    told = _CAUSE_OF_STATUS.get(status)
    if told is not None:
        return told
    if 300 <= status < 400:
        return "account"  # A proxy or the base URL is wrong: an operator must act, and every request is refused.
    if 400 <= status < 500:
        return "never" if said.structured else "odd"
    return "faulty"
