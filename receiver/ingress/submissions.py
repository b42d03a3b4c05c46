"""A submission becomes one fact, however often and however concurrently a client sends it.

A job id names one submission. This process remembers recent ids with the hash of their submission, from *before* the
first attempt to publish: a record without an acknowledgement may still be in the log, so from then on the id belongs to
that body. For other ids it asks the read model. Publishing a repeat is harmless, as the fold knows the job id; skipping
it only saves a record.

From the same memory clients can read what they have just submitted, before the read model has it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from backstop.runtime.blobs import Bodies, blobs_of
from backstop.runtime.claims import Claims
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.reporting import Reporting
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.process.logs import get_logger
from backstop.runtime.shares import Shares
from receiver.access.priorities import AllowsPriority, any_priority
from receiver.access.quotas import Quotas
from receiver.limits import Limits
from receiver.lookups import KnownJob
from receiver.metrics import ReceiverMetrics
from receiver.problems import FieldError, Problem, Refusal
from schemas.jobs import JobSubmitted, ResponseAdopted
from schemas.requests import Submit
from streams.adoptions import PreparedAdoption, to_adopted
from streams.policy.caps import CapRefusedError
from streams.policy.limits import NO_LIMITS, LimitRules
from streams.policy.prices import NO_PRICES, Prices
from streams.submission import Prepared, SubmissionPolicy, refuse_cap, to_submitted

APPEAR_POLL_S = 0.05

log = get_logger("receiver.ingress.submissions")


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """A job that this process accepted recently; the read model may not have it yet."""

    submitted_at_ms: int
    model: str | None
    """None for an adopted response."""
    session_id: str | None
    tags: tuple[str, ...]
    deadline_at_ms: int | None
    request_sha256: str


Submission = Prepared | PreparedAdoption
FindJob = Callable[[str], Awaitable[KnownJob | None]]


@dataclass(frozen=True, slots=True)
class TakenSubmission:
    """The log has the submission; `repeated` if it already had it."""

    job_id: str
    deadline_at_ms: int | None
    repeated: bool
    submitted_at_ms: int | None = None
    """None for a repeat found in the read model."""
    marked: bool = True
    """False if the marks of this submission are still to be stored."""


@dataclass(frozen=True, slots=True)
class NotTaken:
    """Why a submission was not accepted.

    - `conflict`: the id names another submission.
    - `deadline_past`: the deadline has passed.
    - `begins_too_late`: it may not begin before the latest deadline of a job.
    - `busy`: too many submissions in progress.
    - `log`: not acknowledged; the log may have it, and a repeat is safe.
    - `unconfirmed`: the log has it, and perhaps another submission under the same id before it.
    - `storage`: a blob could not be stored, and nothing was published.
    - `cap`: the job's cap of money can't be kept; see `problem`.
    - `quota`: see `problem`.
    """

    why: Literal[
        "conflict", "deadline_past", "begins_too_late", "busy", "log", "unconfirmed", "storage", "quota", "cap"
    ]
    problem: Problem | None = None


Verdict = TakenSubmission | NotTaken


@dataclass(frozen=True, slots=True)
class _Remembered:
    tenant: str
    sha256: str
    deadline_at_ms: int | None
    acked: bool
    accepted: AcceptedJob | None = None
    """None if it was found in the read model."""

    def agrees(self, tenant: str, sha256: str) -> bool:
        return self.tenant == tenant and self.sha256 == sha256


@dataclass(frozen=True, slots=True)
class SubmissionRules:
    """What is stamped on submissions besides their policy."""

    limits: LimitRules = NO_LIMITS
    prices: Prices = NO_PRICES


@dataclass(frozen=True, slots=True)
class KnownIds:
    """Where this process finds the job ids that belong to a submission."""

    claims: Claims
    are_shared: Callable[[], bool]
    """Whether, as far as this process knows, all receivers use the same claims."""
    find_job: FindJob
    """Asks the read model."""


async def knows_nothing(_job_id: str) -> KnownJob | None:
    """`FindJob` for a process without a read model."""
    return None


class Submissions:
    def __init__(
        self,
        *,
        reporting: Reporting[ReceiverMetrics],
        bodies: Bodies,
        ids: KnownIds,
        policy: SubmissionPolicy,
        limits: Limits,
        quotas: Quotas,
        stamps: SubmissionRules | None = None,
        allows_priority: AllowsPriority = any_priority,
    ) -> None:
        self._allows_priority = allows_priority
        self._stamps = stamps or SubmissionRules()
        self._publisher = reporting.publisher
        self._metrics = reporting.metrics
        self._now_ms = reporting.now_ms
        self._bodies = bodies
        self._ids = ids
        self._policy = policy
        self._find_job = ids.find_job
        self._limits = limits
        self._quotas = quotas
        self._recent: OrderedDict[str, _Remembered] = OrderedDict()
        self._in_flight: dict[str, tuple[str, asyncio.Future[Verdict]]] = {}
        self._places = Shares(limits.submissions_concurrent_max)

    async def take(
        self, prepared: Submission, job_id: str, tenant: str, *, chosen: bool, keep: bool = False,
        marks: Sequence[bytes] = (),
    ) -> Verdict:  # fmt: skip
        """Publish the submission under `job_id` unless the log has it. Concurrent calls for one id get one verdict, or
        a conflict.

        `chosen`: the id comes from the caller, so another submission may use it, also at another process. `keep`: store
        the canonical submission as a blob too, for reads that show the request. `marks`: stored before the log has the
        job, so that no reader sees it without them; not stored (`TakenSubmission.marked`) where the id may still turn
        out to be another submission's, which they must not mark.
        """
        sha256 = prepared.sha256
        in_flight = self._in_flight.get(job_id)
        if in_flight is not None:
            first_sha256, first = in_flight
            if first_sha256 != sha256:
                return NotTaken("conflict")
            verdict = await asyncio.shield(first)
            return replace(verdict, repeated=True) if isinstance(verdict, TakenSubmission) else verdict
        if not self._places.ask_sparing((tenant,)):
            return NotTaken("busy")
        mine: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._in_flight[job_id] = (sha256, mine)
        verdict = NotTaken("log")
        try:
            verdict = await self._take_first(
                prepared, job_id, tenant, chosen=chosen, keep=(prepared.data,) if keep else (), marks=marks
            )
        finally:
            self._places.give_back((tenant,))
            del self._in_flight[job_id]
            # Also when this request is cancelled: concurrent repeats wait for a verdict.
            mine.set_result(verdict)
        return verdict

    def accepted(self, job_id: str, tenant: str) -> AcceptedJob | None:
        """The tenant's job under this id, if this process accepted it recently: for reads before the read model's."""
        known = self._recent.get(job_id)
        if known is None or known.tenant != tenant or not known.acked or known.accepted is None:
            return None
        age_ms = self._now_ms() - known.accepted.submitted_at_ms
        return known.accepted if age_ms <= self._limits.accepted_shown_s * 1000 else None

    async def exists(self, job_id: str, tenant: str) -> bool:
        """Whether the tenant has such a job. Waits up to `appear_s` for a job that another process accepted. True also
        if the read model does not answer.
        """
        if self._find_job is knows_nothing or self.accepted(job_id, tenant) is not None:
            return True
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._limits.appear_s
        while True:
            try:
                async with asyncio.timeout(self._limits.find_job_s):
                    found = await self._find_job(job_id)
            except Exception as error:  # no error of the read model may stop a cancel
                self._metrics.find_job_failed.inc()
                log.warning("find_job_failed", job_id=job_id, error_type=type(error).__name__)
                return True
            if found is not None:
                return found.tenant == tenant
            if loop.time() >= deadline_s:
                return False
            await asyncio.sleep(APPEAR_POLL_S)

    async def _take_first(
        self, prepared: Submission, job_id: str, tenant: str, *, chosen: bool, keep: Sequence[bytes],
        marks: Sequence[bytes],
    ) -> Verdict:  # fmt: skip
        known = self._recent.get(job_id) or await self._ask(job_id)
        if known is not None:
            if not known.agrees(tenant, prepared.sha256):
                return NotTaken("conflict")
            if known.acked:
                self._remember(job_id, known)
                at_ms = known.accepted.submitted_at_ms if known.accepted else None
                return TakenSubmission(job_id, known.deadline_at_ms, repeated=True, submitted_at_ms=at_ms)
        at_ms = self._now_ms()
        deadline_at_ms = prepared.deadline_at_ms
        if deadline_at_ms is not None and deadline_at_ms <= at_ms:
            return NotTaken("deadline_past")
        submit = prepared.submit if isinstance(prepared, Prepared) else None  # an adopted response has begun
        if submit is not None and submit.begins_too_late(at_ms):
            return NotTaken("begins_too_late")
        refused = await self._refused(submit, job_id, tenant, at_ms)
        if refused is not None:
            return refused
        return await self._claim_and_publish(prepared, job_id, tenant, at_ms, chosen=chosen, keep=keep, marks=marks)

    async def _refused(self, submit: Submit | None, job_id: str, tenant: str, at_ms: int) -> NotTaken | None:
        """Why the job is not admitted. Decided before anything is stored: a refused submission leaves nothing."""
        try:
            if submit is not None:
                refuse_cap(submit, at_ms, self._policy, self._stamps.prices)
            self._allows_priority(None if submit is None else submit.priority_or_normal)
            await self._quotas.admit(tenant, job_id)
        except CapRefusedError as error:
            wrong = FieldError(f"#/{error.field}", str(error))
            return NotTaken("cap", Problem(422, "bad_request", str(error), errors=(wrong,)))
        except Refusal as refusal:
            return NotTaken("quota", refusal.problem)
        return None

    async def _claim_and_publish(
        self, prepared: Submission, job_id: str, tenant: str, at_ms: int, *, chosen: bool,
        keep: Sequence[bytes], marks: Sequence[bytes],
    ) -> Verdict:  # fmt: skip
        first = await self._ids.claims.claim(job_id, prepared.sha256) if chosen else prepared.sha256
        if first not in (None, prepared.sha256):
            self._quotas.release(tenant, job_id)
            return NotTaken("conflict")
        decided = not chosen or (first is not None and self._ids.are_shared())
        verdict = await self._publish(prepared, job_id, tenant, at_ms, keep=(*keep, *marks) if decided else keep)
        if isinstance(verdict, NotTaken) or decided:
            return verdict
        return await self._confirmed(replace(verdict, marked=not marks), tenant, prepared.sha256)

    async def _confirmed(self, taken: TakenSubmission, tenant: str, sha256: str) -> Verdict:
        """The verdict from the read model where claims can't decide: another process may have published another
        submission under this id before.
        """
        if self._find_job is knows_nothing:
            return taken
        job_id, mine = taken.job_id, self._recent.get(taken.job_id)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._limits.confirm_s
        while True:
            found = await self._ask(job_id)
            if found is not None and not found.agrees(tenant, sha256):
                self._remember(job_id, found)
                return NotTaken("conflict")
            if found is not None:
                return taken
            if loop.time() >= deadline_s:
                break
            await asyncio.sleep(APPEAR_POLL_S)
        if mine is not None:
            self._remember(job_id, replace(mine, acked=False))  # so that a repeat checks again
        return NotTaken("unconfirmed")

    async def _publish(
        self, prepared: Submission, job_id: str, tenant: str, at_ms: int, *, keep: Sequence[bytes]
    ) -> Verdict:
        try:
            for data in keep:
                await blobs_of(self._bodies.blobs, tenant).put(data)
            fact = await self._fact(prepared, job_id, tenant, at_ms)
        except OSError as error:
            log.error("blob_not_stored", job_id=job_id, error_type=type(error).__name__, errno=error.errno)
            self._quotas.release(tenant, job_id)
            return NotTaken("storage")
        now_known = _Remembered(tenant, fact.request_sha256, fact.deadline_at_ms, acked=False, accepted=_accepted(fact))
        self._remember(job_id, now_known)
        try:
            await self._publisher.publish([fact], timeout_s=self._limits.publish_s)
        except BrokerUnavailableError:
            self._quotas.doubt(tenant, job_id)
            return NotTaken("log")
        failpoint("receiver.job.acked")
        self._remember(job_id, replace(now_known, acked=True))
        self._metrics.jobs_submitted.labels("http").inc()
        return TakenSubmission(job_id, fact.deadline_at_ms, repeated=False, submitted_at_ms=at_ms)

    async def _fact(self, prepared: Submission, job_id: str, tenant: str, at_ms: int) -> JobSubmitted | ResponseAdopted:
        if isinstance(prepared, PreparedAdoption):
            return to_adopted(prepared, job_id=job_id, tenant=tenant, at_ms=at_ms, policy=self._policy)
        return await to_submitted(
            prepared, job_id=job_id, tenant=tenant, ingress="http", at_ms=at_ms, policy=self._policy,
            bodies=self._bodies, limits=self._stamps.limits, prices=self._stamps.prices,
        )  # fmt: skip

    async def _ask(self, job_id: str) -> _Remembered | None:
        try:
            async with asyncio.timeout(self._limits.find_job_s):
                found = await self._find_job(job_id)
        except Exception as error:  # no error of the read model may stop submissions
            self._metrics.find_job_failed.inc()
            log.warning("find_job_failed", job_id=job_id, error_type=type(error).__name__)
            return None
        if found is None:
            return None
        return _Remembered(found.tenant, found.request_sha256, found.deadline_at_ms, acked=True)

    def _remember(self, job_id: str, what: _Remembered) -> None:
        self._recent[job_id] = what
        self._recent.move_to_end(job_id)
        while len(self._recent) > self._limits.submissions_remembered_max:
            self._recent.popitem(last=False)


def _accepted(fact: JobSubmitted | ResponseAdopted) -> AcceptedJob:
    model = fact.model if isinstance(fact, JobSubmitted) else None
    return AcceptedJob(fact.at_ms, model, fact.session_id, fact.tags, fact.deadline_at_ms, fact.request_sha256)
