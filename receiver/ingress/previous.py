"""`previous_response_id`: all tenants share one project at the provider, so a foreign id would read a foreign
conversation.

In a create at `/v1/responses` it is a response id that Backstop assigned; in a job it is the provider's id. Either must
belong to the caller's tenant. An id unknown to the read model was created outside Backstop: only the default tenant,
the operator's own, may use it in a job.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from backstop.runtime.blobs import BlobStore
from receiver.ingress.submissions import APPEAR_POLL_S, AcceptedJob
from receiver.lookups import JobReads, ReadsAwayError, SeenJob
from receiver.problems import FieldError, Problem, Refusal, unavailable
from receiver.stored_objects import StoredObjects
from schemas.base import DEFAULT_TENANT
from schemas.job_ids import own_job_id, qualified_job_id
from schemas.long_texts import beginnings
from schemas.project_names import PREVIOUS
from schemas.requests import Submit
from schemas.statuses import has_answer
from streams.submission import SubmissionPolicy

Accepted = Callable[[str, str], AcceptedJob | None]
"""By job id and tenant."""

FIELD = PREVIOUS
RETRY_AFTER_S = 2

_SHARED_PROJECT: Final = (
    "This names an object in the project at the provider, which all tenants share: send the content itself, or ask the "
    "operator to share the object."
)
_SENTENCES: Final = {
    "input": "This names a stored item in the project at the provider, which all tenants share: send the whole item "
    "(reasoning with its encrypted_content, by include: ['reasoning.encrypted_content']), or continue an earlier "
    "response by previous_response_id.",
}  # fmt: skip


IsHidden = Callable[[str, str], Awaitable[bool]]
"""`(tenant, response id)`: whether it was deleted."""


class PreviousResponses:
    def __init__(
        self, reads: JobReads | None, blobs: BlobStore, policy: SubmissionPolicy, is_hidden: IsHidden,
        accepted: Accepted, appear_s: float,
    ) -> None:  # fmt: skip
        """`accepted` finds jobs that this process accepted recently. Jobs of other processes are awaited for
        `appear_s`.
        """
        self._accepted = accepted
        self._appear_s = appear_s
        self._reads = reads
        self.stored = StoredObjects(blobs)
        self._policy = policy
        self._is_hidden = is_hidden

    def refuse_foreign(self, submit: Submit, tenant: str, at: str = "#") -> None:
        """Check all names in the request except `previous_response_id`, and in the fallbacks. `at` is the JSON pointer
        of the request in the body.

        :raises Refusal: 422, it names an object of the project that the tenant may not name.
        """
        rest = {name: value for name, value in submit.request.items() if name != FIELD}
        named = self._policy.refuses_name(rest, tenant)
        if named is None:
            named, at = self._policy.refuses_fallback(submit, tenant), "#"
        if named is not None:
            raise _refused(f"{at}{named.pointer.removeprefix('#')}", _SENTENCES.get(named.kind, _SHARED_PROJECT))

    async def check(self, submit: Submit, tenant: str) -> None:
        """Check the `previous_response_id` of a job, which is the provider's id.

        :raises Refusal: 422, it is not the tenant's, or deleted; 503, the read model is not reachable.
        """
        named, pointer = beginnings(submit.request.get(FIELD)), f"#/request/{FIELD}"
        if named is None:
            return
        if self._reads is None or not isinstance(named, str):
            if tenant != DEFAULT_TENANT:
                raise _not_own(pointer)
            return
        try:
            owner = await self._reads.owner_of(named)
        except ReadsAwayError:
            raise _cannot_tell() from None
        if owner.tenant != tenant if owner is not None else tenant != DEFAULT_TENANT:
            raise _not_own(pointer)
        if owner is not None and await self._is_hidden(tenant, own_job_id(tenant, owner.job_id)):
            raise _not_own(pointer)

    async def allows_again(self, submit: Submit, own_id: str, tenant: str) -> bool:
        """Whether the request of an ended job may be submitted anew: its response was not deleted since, and it names
        only what the tenant may name now.

        :raises Refusal: 503, the read model is not reachable.
        """
        if await self._is_hidden(tenant, own_id):
            return False
        try:
            await asyncio.to_thread(self.refuse_foreign, submit, tenant)
            await self.check(submit, tenant)
        except Refusal as refusal:
            if refusal.problem.status == HTTPStatus.UNPROCESSABLE_ENTITY:
                return False
            raise
        return True

    async def to_provider(self, given: Any, tenant: str) -> str:
        """The provider's id of the earlier response `given`, an id that Backstop assigned.

        :raises Refusal: 422, it is not the tenant's, or has not ended with an output; 503, the read model is not
            reachable.
        """
        if self._reads is None or not isinstance(given, str):
            raise _not_own(f"#/{FIELD}")
        job_id = qualified_job_id(tenant, given)
        try:
            seen = await self._seen(self._reads, tenant, job_id)
        except ReadsAwayError:
            raise _cannot_tell() from None
        is_known = seen is not None or self._accepted(job_id, tenant) is not None
        if not is_known or await self._is_hidden(tenant, given):
            raise _not_own(f"#/{FIELD}")
        if seen is None or seen.result is None:
            raise _refused(f"#/{FIELD}", f"The response {given} has not ended yet; wait until it has.")
        if not has_answer(seen.result.outcome) or seen.result.response is None:
            raise _refused(f"#/{FIELD}", f"The response {given} ended as {seen.result.outcome} and can't be continued.")
        provided = await self.stored.of(seen.result.response)
        provider_id = None if provided is None else provided.members.get("id")
        if not isinstance(provider_id, str):
            raise _refused(f"#/{FIELD}", f"The output of the response {given} is no longer stored.")
        return provider_id

    async def _seen(self, reads: JobReads, tenant: str, job_id: str) -> SeenJob | None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._appear_s
        while True:
            seen = await reads.job(tenant, job_id)
            if seen is not None or self._accepted(job_id, tenant) is not None or loop.time() >= deadline_s:
                return seen
            await asyncio.sleep(APPEAR_POLL_S)

    async def to_own(self, named: str, tenant: str) -> str | None:
        """Backstop's id of a response that the provider names by its own; None if it is not the tenant's."""
        owner = await self._reads.owner_of(named) if self._reads is not None else None
        if owner is None or owner.tenant != tenant:
            return None
        return own_job_id(tenant, owner.job_id)


def _not_own(pointer: str) -> Refusal:
    return _refused(pointer, "previous_response_id must name an earlier response of your own, made through Backstop.")


def _refused(pointer: str, sentence: str) -> Refusal:
    return Refusal(Problem(422, "bad_request", sentence, errors=(FieldError(pointer, sentence),)))


def _cannot_tell() -> Refusal:
    return unavailable(
        "reads_unavailable",
        "previous_response_id can't be checked now; send the request again.",
        RETRY_AFTER_S,
    )
