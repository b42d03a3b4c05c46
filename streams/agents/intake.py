"""What intake does with one record of `requests`: the facts that it becomes. Pure but for the blob store.

A bad record becomes a dead letter; where its job id can be read, its job also ends with a `rejected` result, so that an upstream
service that only listens to `results` hears of it.
"""

import re
from collections.abc import Sequence
from typing import Any

from backstop.runtime.blobs import BlobStore
from backstop.runtime.claims import Claims
from backstop.runtime.kafka.dead_letters import RawRecord, dead_letter
from schemas.base import Message
from schemas.codec import DEPTH_MAX, PoisonError, decode_object, load_object, readable
from schemas.job_ids import qualified_job_id
from schemas.requests import FIELDS_MAX, REQUEST, REQUEST_BYTES_MAX, REQUEST_VALUES_MAX, Cancel, Submit
from schemas.shape import ShapeLimits, beyond
from streams.submission import SubmissionPolicy, prepare, to_cancel, to_refused, to_submitted

_JOB_ID = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
_SHAPE = ShapeLimits(values_max=REQUEST_VALUES_MAX, depth_max=DEPTH_MAX)


async def take_request(
    record: RawRecord,
    *,
    tenant: str,
    now_ms: int,
    policy: SubmissionPolicy,
    blobs: BlobStore,
    inline_bytes_max: int,
    claims: Claims | None = None,
) -> Sequence[Message]:
    """The facts (and the dead letter) of one record. Total over its bytes."""
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
        if claims is not None and await claims.claim(job_id, prepared.sha256) not in (None, prepared.sha256):
            # The job is the other's, and its result too: nothing but the dead letter may be said under this id.
            error = PoisonError("conflict", "the job id belongs to another submission, which was sent before")
            return (dead_letter(record, error, "intake", now_ms),)
        submitted = await to_submitted(
            prepared, job_id=job_id, tenant=tenant, ingress="kafka", at_ms=now_ms, policy=policy, blobs=blobs,
            inline_bytes_max=inline_bytes_max,
        )  # fmt: skip
    except PoisonError as error:
        letter = dead_letter(record, error, "intake", now_ms)
        if given is None:
            return (letter,)
        return (letter, to_refused(qualified_job_id(tenant, given), tenant, error.reason, error.detail, now_ms, policy))
    return (submitted,)


def _named_by(text: object) -> str | None:
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return text if isinstance(text, str) and _JOB_ID.fullmatch(text) else None


def _parsed(value: bytes | None) -> dict[str, Any]:
    """The value, measured before it is parsed: what comes here is anybody's."""
    value = readable(value)
    if len(value) > REQUEST_BYTES_MAX:
        raise PoisonError("too_large", f"{len(value)} bytes; a request may have {REQUEST_BYTES_MAX}")
    too_much = beyond(value, _SHAPE)
    if too_much is not None:
        raise PoisonError("invalid", too_much)
    raw = load_object(value)
    if len(raw) > FIELDS_MAX:
        raise PoisonError("invalid", f"the request has {len(raw)} fields; it may have {FIELDS_MAX}")
    return raw


def _refuse_foreign(request: Submit, tenant: str, policy: SubmissionPolicy) -> None:
    """All tenants share one project at the provider, and nobody here can tell whose a thing of it is."""
    named = policy.refuses_name(request.request, tenant)
    if named is not None:
        raise PoisonError(
            "invalid",
            f"request{named.pointer.removeprefix('#').replace('/', '.')} names something of the project that all tenants share: send the content "
            "itself; an earlier response can be named over HTTP only, where whose it is can be checked",
        )


def _one_id(request: Submit | Cancel, record: RawRecord) -> str:
    """The job id: of the value, of the key, or of both if they agree."""
    try:
        key = record.key.decode() if record.key else None
    except UnicodeDecodeError:
        raise PoisonError("wrong_key", "the record's key is not UTF-8") from None
    if request.job_id is not None and key is not None and key != request.job_id:
        raise PoisonError("wrong_key", "the record's key is not the job_id of its value")
    job_id = request.job_id or key
    if job_id is None or not _JOB_ID.fullmatch(job_id):
        raise PoisonError(
            "invalid", "no job id: give the record a key or the value a job_id, 1 to 100 of A-Z a-z 0-9 _ . -"
        )
    return job_id
