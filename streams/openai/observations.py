"""Reads a response object: its status, why it failed, and the job that its metadata names. Pure; total over any JSON.

The rules are in ARCHITECTURE.md, "When a response is over".
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

from schemas.base import DEFAULT_TENANT, JOB_ID_PATTERN, RESPONSE_ID_CHARS_MAX, TENANT_ID_PATTERN, Cause, Terms
from schemas.requests import METADATA_ATTEMPT, METADATA_JOB, METADATA_OURS, METADATA_OURS_BEFORE, METADATA_TENANT
from schemas.statuses import END_RESPONSE_STATUSES, OPEN_RESPONSE_STATUSES, ResponseStatus, SeenOutcome
from streams.openai.causes import Rule, Said, is_account_wide, verdict
from streams.openai.durations import EPOCH_S_MAX
from streams.openai.errors import code_of, failure_of, fields_of, member, words_of
from streams.openai.foreign_json import is_response, several
from streams.openai.waits import body_wait_ms, poll_after_ms, text_wait_ms
from streams.provider import Owner, Seen, Tokens

TEXT_CHARS_MAX = 500
CODE_CHARS_MAX = 100
ID_CHARS_SHOWN = 60
COUNT_DIGITS_MAX = 16
COUNT_MAX = 10**9
"""Tokens of one response. A larger count is a mistake: it would use up budgets and limits of a day."""
TERM_CHARS_MAX = 20
SIZED_DEPTH_MAX = 8
"""Items, contents and texts of an output are 4 levels."""
ACCOUNT_WAIT_MS_MAX = 300_000
"""Limit of a wait told with a condition of the account: a month may be named, and a person mends it sooner."""

OF_ANOTHER_JOB: Final = "another_job"
TOO_LARGE: Final = "answer_too_large"
_TOO_LARGE_SAID: Final = (
    "The provider's answer is larger than this deployment reads (BACKSTOP_OPENAI_ANSWER_BYTES_MAX, in bytes), or has "
    "too many values. The response is at the provider."
)

_SYNONYMS: Final[dict[str, ResponseStatus]] = {
    "pending": "queued", "created": "queued", "accepted": "queued", "submitted": "queued", "enqueued": "queued",
    "scheduled": "queued", "waiting": "queued", "not_started": "queued", "validating": "queued",
    "running": "in_progress", "processing": "in_progress", "inprogress": "in_progress", "started": "in_progress",
    "starting": "in_progress", "initializing": "in_progress", "initialized": "in_progress", "active": "in_progress",
    "generating": "in_progress", "streaming": "in_progress", "finalizing": "in_progress",
    "cancelling": "in_progress", "canceling": "in_progress", "canceled": "cancelled",
    "succeeded": "completed", "success": "completed", "complete": "completed", "done": "completed",
    "finished": "completed", "successful": "completed",
    "error": "failed", "errored": "failed", "failure": "failed", "expired": "failed", "timed_out": "failed",
}  # fmt: skip
"""Statuses of compatible servers (from public reports), in the form of `_known_status`."""

_USAGE_NAMES: Final = (("input", "prompt"), ("output", "completion"))

_JOB_ID = re.compile(JOB_ID_PATTERN)
_ATTEMPT = re.compile(r"[1-9][0-9]{0,5}")
_TENANT = re.compile(TENANT_ID_PATTERN)
_KEY_LIKE = re.compile(r"\bsk-[A-Za-z0-9_*\-]+")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")


@dataclass(frozen=True, slots=True)
class Unseen:
    """The body is not the requested object, or not a readable one."""

    reason: str


def see(
    body: Any, headers: Mapping[str, str], job_id: str | None = None, rules: Iterable[Rule] = (), now_ms: int = 0
) -> Seen | Unseen:
    """Read the object that a call returned.

    :param job_id: the job of the response, if known. An object whose metadata names another job is not accepted.
    Another
        response id is accepted, as gateways answer with the ids of the servers behind them.
    """
    if not is_response(body):
        return Unseen("no_response_object")
    owner = owner_of(body.get("metadata"))
    if _is_of_another(owner, job_id):
        return Unseen(OF_ANOTHER_JOB)
    raw_status = shown(body.get("status"), CODE_CHARS_MAX)
    if raw_status is None and (body.get("id") is None or body.get("error") is not None):
        return Unseen("no_status")
    outcome = _outcome(_known_status(raw_status))
    why, model = _why(outcome, body, rules, now_ms), body.get("model")
    usage = _tokens(body.get("usage"))
    return Seen(
        outcome=outcome,
        raw_status=raw_status or "absent",
        body=body if body.get("output") is not None else {**body, "output": []},
        cause=why.cause,
        code=why.code,
        message=why.message,
        wait_ms=why.wait_ms,
        code_known=why.known,
        account_wide=why.account_wide,
        usage=usage,
        terms=_terms(body, usage) if isinstance(body.get("usage"), dict) else None,
        owner=owner,
        created_at_ms=_stamp_ms(body.get("created_at")),
        ended_at_ms=_stamp_ms(body.get("completed_at")),
        poll_after_ms=poll_after_ms(headers),
        continuation_id=shown(member(body.get("background_options"), "continuation_id"), TEXT_CHARS_MAX),
        progress=None if outcome in END_RESPONSE_STATUSES else _progress(body),
        model=model if isinstance(model, str) else "",
    )


def ours_of(body: Any, response_id: str | None, job_id: str | None, attempt: int | None = None) -> Any:
    """Of several responses in an answer the one that was asked for, by its id, else by its metadata; else the answer.

    Of two that fit, the later one counts.
    """
    held = several(body)
    named = [item for item in held if response_id is not None and item.get("id") == response_id]
    owned = [
        item
        for item in held
        if (owner := owner_of(item.get("metadata"))) is not None
        and owner.job_id == job_id
        and attempt in (None, owner.attempt)
    ]
    return (named or owned or [body])[-1]


def owned_by_another(body: Any, job_id: str | None) -> bool:
    """Whether a body is the response of another job: a cache, or a mix-up on the way."""
    return isinstance(body, dict) and _is_of_another(owner_of(body.get("metadata")), job_id)


def _is_of_another(owner: Owner | None, job_id: str | None) -> bool:
    return owner is not None and job_id is not None and owner.job_id != job_id


def stands_there(body: Any, response_id: str | None, job_id: str | None) -> bool:
    """Whether a body of any HTTP status is, by its own word, the response that was asked for, or that of the job."""
    if not isinstance(body, dict) or body.get("object") is None or not is_response(body):
        return False
    if _outcome(_known_status(shown(body.get("status"), CODE_CHARS_MAX))) == "odd":
        return False
    owner = owner_of(body.get("metadata"))
    if owner is not None:
        return owner.job_id == job_id
    return response_id is not None and body.get("id") == response_id


def _progress(body: Mapping[str, Any]) -> int | None:
    """What an object without an end shows of its run. Servers without partial output show none."""
    usage, size = body.get("usage"), _size(body.get("output"), SIZED_DEPTH_MAX)
    made = _first_count(usage, _USAGE_NAMES[1]) or 0
    total = _count(member(usage, "total_tokens")) or (_first_count(usage, _USAGE_NAMES[0]) or 0) + made
    return total + made + size or None


def _size(value: Any, depth: int) -> int:
    """The texts and members of parsed JSON, down to a depth."""
    if isinstance(value, dict | list) and depth:
        return sum(1 + _size(item, depth - 1) for item in (value.values() if isinstance(value, dict) else value))
    return len(value) if isinstance(value, str) else 0


def too_large(beginning: Seen | Unseen) -> Seen:
    """What an answer shows that exceeds a limit, by its beginning.

    A response that has ended can't be read now or later: it failed. One whose status is not in the beginning has an
    unknown status, so the fold's patience decides.
    """
    if isinstance(beginning, Unseen):
        body = _stand_in({}, TOO_LARGE)
        return Seen("odd", TOO_LARGE, body=body, code=TOO_LARGE, message=_TOO_LARGE_SAID, said_by="backstop")
    if beginning.outcome == "running":
        return beginning
    outcome: SeenOutcome = "failed" if beginning.over else "odd"
    body = _stand_in(beginning.body, outcome if beginning.over else TOO_LARGE)
    return replace(
        beginning,
        outcome=outcome,
        raw_status=beginning.raw_status if beginning.over else TOO_LARGE,
        body=body,
        cause="never" if beginning.over else None,
        code=TOO_LARGE,
        message=_TOO_LARGE_SAID,
        said_by="backstop",
        code_known=True,
    )


def unusable_id(told: Any, body: Mapping[str, Any]) -> Seen:
    """The end of a response that was accepted under an id by which nothing can ask for it.

    It is not created again, as it may run and be paid.
    """
    begins = shown(str(told), ID_CHARS_SHOWN) or "nothing printable"
    message = (
        "The provider accepted the create, and names its response by an id that can't be used: it begins with "
        f"{begins!r} and has {len(str(told))} characters. An id is printable ASCII of {RESPONSE_ID_CHARS_MAX} "
        "characters at most. The response may run on at the provider; it was not created again."
    )
    return Seen(
        "failed", "unusable_id", body=body, cause="never", code="unusable_id", message=message, said_by="backstop"
    )


def _stand_in(members: Mapping[str, Any], status: str) -> dict[str, Any]:
    """An object in place of the one that can't be read."""
    return {
        "object": "response",
        **members,
        "status": status,
        "error": {"code": TOO_LARGE, "message": _TOO_LARGE_SAID},
        "output": [],
    }


def _known_status(raw: str | None) -> str | None:
    """A status in OpenAI's words. Case, hyphens and spaces don't matter (`In Progress`, `COMPLETED`)."""
    word = re.sub(r"[\s\-]+", "_", (raw or "").strip().lower())
    return _SYNONYMS.get(word, word) or None


def _outcome(status: str | None) -> SeenOutcome:
    for end in END_RESPONSE_STATUSES:
        if status == end:
            return end
    return "running" if status in OPEN_RESPONSE_STATUSES else "odd"


def owner_of(metadata: Any) -> Owner | None:
    """Job, attempt and tenant from a response's metadata; None unless all three are well-formed.

    Names without a prefix count only in the form that an older release wrote, as users may have keys of these names.
    """
    if not isinstance(metadata, dict):
        return None
    if METADATA_OURS.intersection(metadata):
        return _owner(*(metadata.get(name) for name in (METADATA_JOB, METADATA_ATTEMPT, METADATA_TENANT)))
    owner = _owner(*(metadata.get(name) for name in METADATA_OURS_BEFORE))
    return owner if owner is not None and _named_by_tenant(owner) else None


def _named_by_tenant(owner: Owner) -> bool:
    """Whether a job of this tenant can have this id."""
    named, colon, _ = owner.job_id.partition(":")
    return named == owner.tenant if colon else owner.tenant == DEFAULT_TENANT


def _owner(job_id: Any, attempt: Any, tenant: Any) -> Owner | None:
    if not (isinstance(job_id, str) and isinstance(attempt, str) and isinstance(tenant, str)):
        return None
    if not (_JOB_ID.fullmatch(job_id) and _ATTEMPT.fullmatch(attempt) and _TENANT.fullmatch(tenant)):
        return None
    return Owner(job_id, int(attempt), tenant)


@dataclass(frozen=True, slots=True)
class _Why:
    cause: Cause | None = None
    code: str | None = None
    message: str | None = None
    wait_ms: int = 0
    known: bool = True
    account_wide: bool = False


def _why(outcome: SeenOutcome, body: Mapping[str, Any], rules: Iterable[Rule], now_ms: int) -> _Why:
    if outcome == "incomplete":
        # The tokens are spent, and the same request would reach the same limit.
        details = body.get("incomplete_details")
        details = details[0] if isinstance(details, list) and details else details
        return _Why("never", shown(member(details, "reason") or details, CODE_CHARS_MAX) or "incomplete")
    if outcome != "failed":
        return _Why()
    error = failure_of(body)
    fields = fields_of(error)
    code = shown(code_of(fields), CODE_CHARS_MAX)
    kind = shown(fields.get("type"), CODE_CHARS_MAX)
    message = shown(words_of(error), TEXT_CHARS_MAX)
    told = Said(code=code, kind=kind, message=message or "")
    said = verdict(told, rules)
    wait_ms = body_wait_ms(error, now_ms) or text_wait_ms(message or "", now_ms)
    if said.cause == "account":
        wait_ms = min(wait_ms, ACCOUNT_WAIT_MS_MAX)
    wide = said.cause == "account" and is_account_wide(told)
    return _Why(said.cause, code or kind or "no_code", message, wait_ms, said.known, wide)


def shown(value: Any, chars_max: int) -> str | None:
    """A foreign text, shortened, printable and without anything that looks like a key; None if nothing is left."""
    if not isinstance(value, str):
        return None
    return _KEY_LIKE.sub("sk-…", _UNPRINTABLE.sub(" ", value[: 4 * chars_max])).strip()[:chars_max] or None


def _tokens(usage: Any) -> Tokens | None:
    """None if the usage is not known, because input or output has no count that can be one: it never counts as 0.

    A total that can't be one counts as their sum.
    """
    read, made = (_first_count(usage, names) for names in _USAGE_NAMES)
    if not isinstance(usage, dict) or read is None or made is None:
        return None
    written = member(usage.get("input_tokens_details"), "cache_write_tokens")
    return Tokens(
        input_tokens=read,
        output_tokens=made,
        total_tokens=_count(usage.get("total_tokens")) or read + made,
        cached_tokens=_count(member(usage.get("input_tokens_details"), "cached_tokens")),
        reasoning_tokens=_count(member(usage.get("output_tokens_details"), "reasoning_tokens")),
        cache_write_tokens=_count(written) if written is not None else None,
    )


def _tells_of_tokens(usage: Any) -> bool:
    """Whether any count of a usage tells that tokens were used."""
    names = (*chain.from_iterable(_USAGE_NAMES), "total")
    return any(_counted(member(usage, f"{name}_tokens")) for name in names)


def _terms(body: Mapping[str, Any], usage: Tokens | None) -> Terms:
    """What the price depends on besides the tokens. `usage`: those of the body, None if they can't be read."""
    output = body.get("output")
    items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
    kinds = Counter(str(item.get("type")) for item in items)
    containers = {str(item.get("container_id")) for item in items if item.get("type") == "code_interpreter_call"}
    window = shown(member(body.get("background_options"), "completion_window"), TERM_CHARS_MAX)
    return Terms(
        model=shown(body.get("model"), CODE_CHARS_MAX),
        service_tier=shown(body.get("service_tier"), TERM_CHARS_MAX),
        window=None if window == "soonest" else window,
        web_search_calls=kinds["web_search_call"] or None,
        file_search_calls=kinds["file_search_call"] or None,
        containers=len(containers) or None,
        part_of_usage=(usage is None and _tells_of_tokens(body.get("usage"))) or None,
    )


def _first_count(usage: Any, names: Iterable[str]) -> int | None:
    """The first usable count of these names: compatible servers may use the older one."""
    counts = (_counted(member(usage, f"{name}_tokens")) for name in names)
    return next((count for count in counts if count is not None), None)


def _count(value: Any) -> int:
    """A token count; 0 if unusable."""
    return _counted(value) or 0


def _counted(value: Any) -> int | None:
    """A token count; None if unusable. Some servers send floats, or digits in a text."""
    if isinstance(value, str) and value.isdecimal() and len(value) <= COUNT_DIGITS_MAX:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= COUNT_MAX:
        return None
    return int(value)


def _stamp_ms(value: Any) -> int | None:
    """Unix seconds (an integer or a float) as milliseconds; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return int(value * 1_000) if 0 <= value < EPOCH_S_MAX else None
