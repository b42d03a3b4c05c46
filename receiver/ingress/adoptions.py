"""`POST /v1/jobs/adopt`: a response that an application created itself becomes a job, and ends with one result.

The response fold decides which job owns a response, in the order of its log. The checks here only avoid jobs that would
end as rejected. A request that names a response of one of the tenant's jobs is answered with that job.
"""

from typing import Final

from aiohttp import web

from backstop.runtime.http.routes import Route
from receiver.access.identity import tenant_of
from receiver.bodies import read_model
from receiver.ingress.jobs import ACCEPTED, JOBS_PATH, accepted, refuse
from receiver.ingress.submissions import NotTaken, Submissions, TakenSubmission
from receiver.limits import Limits
from receiver.lookups import JobReads, ReadsAwayError
from receiver.problems import Problem, Refusal, unavailable
from schemas.job_ids import own_job_id, qualified_job_id
from schemas.requests import Adopt
from streams.adoptions import PreparedAdoption
from streams.submission import SubmissionPolicy

ADOPT: Final = Route(
    "POST", f"{JOBS_PATH}/adopt", name="adoptResponse", access="submit", body=Adopt,
    says="Adopt a response that an application created itself (`background: true`, `store: true`).\n\nIt becomes a "
    "job: Backstop polls it, receives its webhook, and ends it with one result. Adopting the same response again "
    "returns the same job; so does a response that belongs to one of your jobs.",
    answers=ACCEPTED,
    problems={
        403: ("response_not_shared",), 409: ("job_id_taken", "response_taken"), 422: ("deadline_past",),
        429: ("open_jobs_exceeded", "token_budget_exceeded"), 503: ("busy", "log_unavailable", "reads_unavailable"),
    },
)  # fmt: skip

_NOT_YOURS: Final = (
    "All tenants share one project at the provider, so a response id does not prove ownership: ask the operator to "
    "share it (BACKSTOP_SUBMISSION_SHARED_IDS), or adopt it as the tenant default."
)


class AdoptIngress:
    def __init__(
        self, submissions: Submissions, reads: JobReads | None, policy: SubmissionPolicy, limits: Limits
    ) -> None:  # fmt: skip
        """Without `reads` the owner of a response is not checked here; the response fold alone decides."""
        self._submissions = submissions
        self._reads = reads
        self._policy = policy
        self._limits = limits

    async def adopt(self, request: web.Request) -> web.Response:
        limits = self._limits
        tenant = tenant_of(request)
        asked = await read_model(Adopt, request, limits, bytes_max=limits.adopt_bytes_max)
        own = await self._own_job(asked.response_id, tenant)
        if own is not None:
            return accepted(own, TakenSubmission(qualified_job_id(tenant, own), None, repeated=True))
        prepared = PreparedAdoption(asked)
        given = prepared.given_job_id
        verdict = await self._submissions.take(prepared, qualified_job_id(tenant, given), tenant, chosen=True)
        if isinstance(verdict, NotTaken):
            refuse(verdict, limits.retry_after_s)
        return accepted(given, verdict)

    async def _own_job(self, response_id: str, tenant: str) -> str | None:
        """The tenant's job that owns the response; None if no known job does.

        :raises Refusal: 409, another tenant's job owns it; 403, the tenant may not name it; 503, the read model is not
            reachable.
        """
        try:
            owner = None if self._reads is None else await self._reads.owner_of(response_id)
            if owner is not None and owner.tenant == tenant:
                return own_job_id(tenant, owner.job_id)
            if await self._is_job(response_id, tenant):
                return response_id
        except ReadsAwayError:
            raise unavailable(
                "reads_unavailable", "The owner of this response can't be checked now; send the request again.",
                self._limits.retry_after_s,
            ) from None  # fmt: skip
        if self._policy.refuses_name({"response_id": response_id}, tenant) is not None:
            # The same answer whether a job owns it or not.
            raise Refusal(Problem(403, "response_not_shared", _NOT_YOURS))
        if owner is not None:
            raise Refusal(Problem(409, "response_taken", "Another job already owns this response."))
        return None

    async def _is_job(self, response_id: str, tenant: str) -> bool:
        """Whether the id was assigned by `POST /v1/responses`: then it names a job here, not a response at the
        provider.
        """
        job_id = qualified_job_id(tenant, response_id)
        if self._submissions.accepted(job_id, tenant) is not None:
            return True
        return self._reads is not None and await self._reads.job(tenant, job_id) is not None
