"""Turns one record of `requests` into facts. Pure except for the blob store and the claims.

A bad record becomes a dead letter. If its job id can be read, the job also ends with a `rejected` result, for upstream
services that read only `results`. A job id that belongs to another submission gets the dead letter alone.
"""

import re
from collections.abc import Sequence
from typing import Any

from backstop.runtime.blobs import Bodies
from backstop.runtime.claims import Claims
from backstop.runtime.kafka.dead_letters import RawRecord, dead_letter
from schemas.base import Message
from schemas.codec import DEPTH_MAX, PoisonError, decode_object, load_object, readable
from schemas.job_ids import qualified_job_id
from schemas.requests import (
    BEGINS_TOO_LATE,
    FIELDS_MAX,
    GIVEN_JOB_ID_PATTERN,
    JOB_ID_CHARS_MAX,
    REQUEST,
    REQUEST_BYTES_MAX,
    REQUEST_VALUES_MAX,
    Cancel,
    Submit,
)
from schemas.shape import ShapeLimits, beyond
from streams.policy.caps import CapRefusedError
from streams.policy.limits import NO_LIMITS, LimitRules
from streams.policy.prices import NO_PRICES, Prices
from streams.submission import SubmissionPolicy, prepare, to_cancel, to_refused, to_submitted

_JOB_ID = re.compile(GIVEN_JOB_ID_PATTERN)
_SHAPE = ShapeLimits(values_max=REQUEST_VALUES_MAX, depth_max=DEPTH_MAX)


async def take_request(
    record: RawRecord,
    *,
    tenant: str,
    now_ms: int,
    policy: SubmissionPolicy,
    bodies: Bodies,
    claims: Claims | None = None,
    limits: LimitRules = NO_LIMITS,
    prices: Prices = NO_PRICES,
) -> Sequence[Message]:
    """The facts, and the dead letter if there is one. No content of a record raises; an OSError is the blob store's."""
    given = _named_by(record.key)
    try:
        raw = _parsed(record.value)
        given = _named_by(raw.get("job_id")) or given
        request = decode_object(REQUEST, raw)
        job_id = qualified_job_id(tenant, _one_id(request, record))
        if isinstance(request, Cancel):
            return (to_cancel(request, job_id=job_id, tenant=tenant, ingress="kafka", at_ms=now_ms),)
        if request.deadline_at_ms is not None and request.deadline_at_ms <= now_ms:
            late_ms = now_ms - request.deadline_at_ms
            raise PoisonError("deadline_past", f"deadline_at_ms was {late_ms} ms ago when the request was taken")
        _refuse_foreign(request, tenant, policy)
        prepared = prepare(request)
        if request.begins_too_late(now_ms):
            raise PoisonError("invalid", BEGINS_TOO_LATE)
        if claims is not None and await claims.claim(job_id, prepared.sha256) not in (None, prepared.sha256):
            # The job and its result belong to the earlier submission: publish only the dead letter under this id.
            error = PoisonError("conflict", "the job id belongs to an earlier submission with another request")
            return (dead_letter(record, error, "intake", now_ms),)
        submitted = await to_submitted(
            prepared, job_id=job_id, tenant=tenant, ingress="kafka", at_ms=now_ms, policy=policy, bodies=bodies,
            limits=limits, prices=prices,
        )  # fmt: skip
    except (PoisonError, CapRefusedError) as found:
        error = found if isinstance(found, PoisonError) else PoisonError("invalid", str(found))
        letter = dead_letter(record, error, "intake", now_ms)
        if given is None:
            return (letter,)
        return (letter, to_refused(qualified_job_id(tenant, given), tenant, error.reason, error.detail, now_ms, policy))
    return (submitted,)


def _named_by(text: object) -> str | None:
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return text if isinstance(text, str) and _is_job_id(text) else None


def _is_job_id(text: str) -> bool:
    return len(text) <= JOB_ID_CHARS_MAX and _JOB_ID.fullmatch(text) is not None


def _parsed(value: bytes | None) -> dict[str, Any]:
    """The parsed value. Its size and shape are checked first: the content is untrusted."""
    value = readable(value)
    if len(value) > REQUEST_BYTES_MAX:
        raise PoisonError("too_large", f"the request has {len(value)} bytes; the limit is {REQUEST_BYTES_MAX}")
    too_much = beyond(value, _SHAPE)
    if too_much is not None:
        raise PoisonError("invalid", too_much)
    raw = load_object(value)
    if len(raw) > FIELDS_MAX:
        raise PoisonError("invalid", f"the request has {len(raw)} fields; the limit is {FIELDS_MAX}")
    return raw


def _refuse_foreign(request: Submit, tenant: str, policy: SubmissionPolicy) -> None:
    """Refuse names of objects at the provider: all tenants share one project, and the intake can't check the owner."""
    named, within = policy.refuses_name(request.request, tenant), "request"
    if named is None:
        named, within = policy.refuses_fallback(request, tenant), "submission"
    if named is not None:
        raise PoisonError(
            "invalid",
            f"{within}{named.pointer.removeprefix('#').replace('/', '.')} names an object of the project that all "
            "tenants share: send the content itself; an earlier response can be named over HTTP only, where its "
            "owner is checked",
        )


def _one_id(request: Submit | Cancel, record: RawRecord) -> str:
    """The job id from the value or the key. If both have one, they must be equal."""
    try:
        key = record.key.decode() if record.key else None
    except UnicodeDecodeError:
        raise PoisonError("wrong_key", "the record's key is not UTF-8") from None
    if request.job_id is not None and key is not None and key != request.job_id:
        raise PoisonError("wrong_key", "the record's key is not the job_id of its value")
    job_id = request.job_id or key
    if job_id is None or not _is_job_id(job_id):
        raise PoisonError(
            "invalid",
            "no valid job id: set the record's key or job_id to 1 to 100 characters of A-Z a-z 0-9 _ . -, "
            "not of dots alone",
        )
    return job_id
