"""What a retrieved response object says: how it stands, whose fault an end is, and whom it says that it belongs to."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from streams.policy.waits import poll_after_ms

TEXT_CHARS_MAX = 500
CODE_CHARS_MAX = 100
EPOCH_S_MAX = 4_102_444_800
"""2100-01-01: a later stamp is nonsense."""

OPEN_STATUSES: Final = frozenset({"queued", "in_progress"})
END_STATUSES: Final = frozenset({"completed", "failed", "incomplete", "cancelled"})

SOON_CODES: Final = frozenset({"server_error", "vector_store_timeout", "failed_to_download_image"})
RESET_CODES: Final = frozenset({"rate_limit_exceeded"})
NEVER_CODES: Final = frozenset({
    "invalid_prompt", "data_residency_mismatch", "bio_policy", "misalignment_policy_violation",
    "image_content_policy_violation", "invalid_image", "invalid_image_format", "invalid_base64_image",
    "invalid_image_url", "image_too_large", "image_too_small", "image_parse_error", "invalid_image_mode",
    "image_file_too_large", "unsupported_image_media_type", "empty_image_file", "image_file_not_found",
})  # fmt: skip
"""With the two sets above: the full list of openai-python 3.54.0. The API promises neither presence nor names (#3212)."""

_JOB_ID = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")
_ATTEMPT = re.compile(r"[1-9][0-9]{0,5}")
_TENANT = re.compile(r"[a-z0-9_\-]{1,64}")
_KEY_LIKE = re.compile(r"\bsk-[A-Za-z0-9_*\-]+")

Blame = Literal["soon", "reset", "never"]
SeenOutcome = Literal["running", "completed", "failed", "incomplete", "cancelled"]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom the response says that it belongs to. Any program in the project can write this: it is a claim, not a proof."""

    job_id: str
    attempt: int
    tenant: str


@dataclass(frozen=True, slots=True)
class Tokens:
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """How the response stands. `blame`, `code` and `message` where it failed or is incomplete."""

    outcome: SeenOutcome
    raw_status: str
    body: Mapping[str, Any] = field(repr=False)
    """The object as it came; it holds the prompt and the output."""
    blame: Blame | None = None
    code: str | None = None
    message: str | None = None
    code_known: bool = True
    """False where a failure has no code, or one that is on no list: worth counting."""
    usage: Tokens | None = None
    owner: Owner | None = None
    created_at_ms: int | None = None
    ended_at_ms: int | None = None
    poll_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Unseen:
    """It is not the object that was asked for, or not one that we can read."""

    reason: str


def see(body: Any, headers: Mapping[str, str], response_id: str) -> Seen | Unseen:
    """Read a retrieved object. Total over any JSON."""
    if not isinstance(body, dict) or body.get("object", "response") != "response":
        return Unseen("no_response_object")
    if body.get("id") != response_id:
        return Unseen("another_id")
    status = body.get("status")
    if not isinstance(status, str) or status not in OPEN_STATUSES | END_STATUSES:
        return Unseen("unknown_status")
    if not isinstance(body.get("output"), list):
        return Unseen("no_output_list")
    outcome: SeenOutcome = "running" if status in OPEN_STATUSES else status  # type: ignore[assignment]  # checked above
    verdict = _verdict(outcome, body)
    return Seen(
        outcome=outcome,
        raw_status=status,
        body=body,
        blame=verdict.blame,
        code=verdict.code,
        message=verdict.message,
        code_known=verdict.known,
        usage=_tokens(body.get("usage")),
        owner=owner_of(body.get("metadata")),
        created_at_ms=_stamp_ms(body.get("created_at")),
        ended_at_ms=_stamp_ms(body.get("completed_at")),
        poll_after_ms=poll_after_ms(headers),
    )


def owner_of(metadata: Any) -> Owner | None:
    """Job, attempt and tenant out of a response's metadata; None unless all three are well-formed."""
    if not isinstance(metadata, dict):
        return None
    job_id, attempt, tenant = (metadata.get(name) for name in ("job", "attempt", "tenant"))
    if not (isinstance(job_id, str) and isinstance(attempt, str) and isinstance(tenant, str)):
        return None
    if not (_JOB_ID.fullmatch(job_id) and _ATTEMPT.fullmatch(attempt) and _TENANT.fullmatch(tenant)):
        return None
    return Owner(job_id, int(attempt), tenant)


@dataclass(frozen=True, slots=True)
class _Verdict:
    blame: Blame | None = None
    code: str | None = None
    message: str | None = None
    known: bool = True


def _verdict(outcome: SeenOutcome, body: Mapping[str, Any]) -> _Verdict:
    if outcome == "incomplete":
        # Tokens are spent, and the same request would meet the same limit.
        return _Verdict(
            "never", shown(_field(body.get("incomplete_details"), "reason"), CODE_CHARS_MAX) or "incomplete"
        )
    if outcome != "failed":
        return _Verdict()
    error = body.get("error")
    code = shown(_field(error, "code"), CODE_CHARS_MAX)
    message = shown(_field(error, "message"), TEXT_CHARS_MAX)
    blame, known = _blame(code, _field(error, "type"))
    return _Verdict(blame, code or "no_code", message, known)


def _blame(code: str | None, kind: Any) -> tuple[Blame, bool]:
    if code in SOON_CODES:
        return "soon", True
    if code in RESET_CODES:
        return "reset", True
    if code in NEVER_CODES:
        return "never", True
    return ("never" if kind == "invalid_request_error" else "soon"), False


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def shown(value: Any, chars_max: int) -> str | None:
    """A foreign text as we keep it: bounded, and without what looks like a key; None where there is none."""
    return _KEY_LIKE.sub("sk-…", value)[:chars_max] if isinstance(value, str) and value else None


def _tokens(usage: Any) -> Tokens | None:
    if not isinstance(usage, dict):
        return None
    return Tokens(
        input_tokens=_count(usage.get("input_tokens")),
        output_tokens=_count(usage.get("output_tokens")),
        total_tokens=_count(usage.get("total_tokens")),
        cached_tokens=_count(_field(usage.get("input_tokens_details"), "cached_tokens")),
        reasoning_tokens=_count(_field(usage.get("output_tokens_details"), "reasoning_tokens")),
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else 0


def _stamp_ms(value: Any) -> int | None:
    """Unix seconds (an integer or a float) as milliseconds; None where it is nothing of the kind."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return int(value * 1_000) if 0 <= value < EPOCH_S_MAX else None
