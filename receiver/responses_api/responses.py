"""The current state of a response: from the read model, else from the memory of recent submissions."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backstop.runtime.blobs import BlobStore, names_of
from receiver.ingress.previous import FIELD, PreviousResponses
from receiver.ingress.submissions import APPEAR_POLL_S, Submissions
from receiver.limits import Limits
from receiver.lookups import JobReads, ReadsAwayError, SeenJob
from receiver.responses_api.items import Missing, PageOf
from receiver.responses_api.stored_items import InputItems
from receiver.responses_api.wire import ended_object, response_object
from schemas.codec import canonical
from schemas.job_ids import qualified_job_id
from schemas.statuses import JobOutcome, response_status

ECHOES_MAX = 2_000
ECHO_BYTES_MAX = 16_384
HIDDEN_REMEMBERED_MAX = 10_000
DELETED = "deleted response"
UNSTORED = "unstored response"


@dataclass(frozen=True, slots=True)
class ShownResponse:
    """The Response object with what the read model knows of its job."""

    document: dict[str, Any]
    """Without the members in `rest`."""
    ended: bool
    request_sha256: str | None
    finished_at_ms: int | None = None
    outcome: JobOutcome | None = None
    rest: bytes = b""
    """The JSON object of the large members of a large response; empty if there are none."""


class Responses:
    def __init__(
        self, reads: JobReads | None, submissions: Submissions, previous: PreviousResponses, blobs: BlobStore,
        limits: Limits,
    ) -> None:  # fmt: skip
        self._reads = reads
        self._submissions = submissions
        self._previous = previous
        self._blobs = blobs
        self._items = InputItems(blobs)
        self._limits = limits
        self._stored = previous.stored
        self._echoes: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._hidden: OrderedDict[str, None] = OrderedDict()

    async def find(self, tenant: str, response_id: str, *, hidden_too: bool = False) -> ShownResponse | None:
        """The response; None if the tenant has no such response, or (without `hidden_too`) has deleted it, or if an
        operator has erased it.

        :raises ReadsAwayError: the read model is not reachable, and this process did not accept the response recently.
        """
        if not hidden_too and await self.is_hidden(tenant, response_id):
            return None
        job_id = qualified_job_id(tenant, response_id)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._limits.appear_s
        while True:
            seen, away = await self._seen(tenant, job_id)
            if seen is not None and seen.result is not None and seen.result.erased_at_ms is not None:
                return None
            if seen is not None:
                return await self._shown(tenant, response_id, seen)
            accepted = self._submissions.accepted(job_id, tenant)
            if accepted is not None:
                echo = await self._echo(tenant, accepted.request_sha256)
                document = response_object(
                    response_id, "queued", model=accepted.model, created_at_ms=accepted.submitted_at_ms, request=echo
                )
                return ShownResponse(document, ended=False, request_sha256=accepted.request_sha256)
            if away is not None:
                raise away
            if self._reads is None or loop.time() >= deadline_s:
                return None
            await asyncio.sleep(APPEAR_POLL_S)

    async def ended(self, tenant: str, response_id: str) -> ShownResponse | None:
        """The response if it has ended, deleted or not: for creates that wait for it. Else None.

        :raises ReadsAwayError: the read model is not reachable.
        """
        seen = None if self._reads is None else await self._reads.job(tenant, qualified_job_id(tenant, response_id))
        return None if seen is None or seen.result is None else await self._shown(tenant, response_id, seen)

    async def asked_in_short(self, tenant: str, request_sha256: str) -> dict[str, Any] | None:
        """The request as it was submitted, without the large members of a large one; None if it is not stored."""
        for name in names_of(self._blobs, tenant, request_sha256):
            read = await self._stored.member(name, "request")
            if read is not None:
                return read.members
        return None

    async def items(self, tenant: str, response_id: str, request_sha256: str | None, wanted: PageOf) -> bytes | Missing:
        """A page of the input of the submission with this hash. Errors: see `InputItems.page`."""
        found: bytes | Missing = "input"
        for name in () if request_sha256 is None else names_of(self._blobs, tenant, request_sha256):
            found = await self._items.page(response_id, name, wanted)
            if found != "input":
                break
        return found

    async def hide(self, tenant: str, response_id: str) -> None:
        """Hide the response from reads, in all processes and permanently. Durable when it returns.

        :raises OSError: the tombstone could not be stored.
        """
        await self._blobs.put(_tombstone(tenant, response_id))
        self._remember_hidden(qualified_job_id(tenant, response_id))

    async def hide_unstored(self, tenant: str, response_id: str) -> None:
        """As `hide`, for a create with `store: false`: repeats of the create still get the response.

        :raises OSError: a tombstone could not be stored.
        """
        for mark in unstored_marks(tenant, response_id):
            await self._blobs.put(mark)
        self._remember_hidden(qualified_job_id(tenant, response_id))

    async def is_hidden(self, tenant: str, response_id: str) -> bool:
        job_id = qualified_job_id(tenant, response_id)
        if job_id in self._hidden:
            return True
        if not await self._blobs.has(_tombstone(tenant, response_id)):
            return False
        self._remember_hidden(job_id)
        return True

    async def is_unstored(self, tenant: str, response_id: str) -> bool:
        """Whether the response is hidden because of `store: false`."""
        return await self._blobs.has(_tombstone(tenant, response_id, UNSTORED))

    async def _seen(self, tenant: str, job_id: str) -> tuple[SeenJob | None, ReadsAwayError | None]:
        if self._reads is None:
            return None, None
        try:
            return await self._reads.job(tenant, job_id), None
        except ReadsAwayError as error:
            return None, error

    async def _shown(self, tenant: str, response_id: str, seen: SeenJob) -> ShownResponse:
        sha256, result = seen.request_sha256, seen.result
        echo = await self._echo(tenant, sha256) if sha256 is not None else {}
        if result is None:
            document = response_object(
                response_id,
                response_status(seen.status),
                model=seen.model,
                created_at_ms=seen.submitted_at_ms,
                request=echo,
            )
            return ShownResponse(document, ended=False, request_sha256=sha256)
        provided = None if result.response is None else await self._stored.of(result.response)
        document = ended_object(
            response_id, result, None if provided is None else provided.members,
            created_at_ms=seen.submitted_at_ms, request=echo, previous_response_id=echo.get(FIELD),
        )  # fmt: skip
        for name in () if provided is None else provided.names:
            document.pop(name, None)
        finished_at_ms = result.timings.finished_at_ms
        rest = b"" if provided is None else provided.rest
        return ShownResponse(document, True, sha256, finished_at_ms, result.outcome, rest)

    async def _echo(self, tenant: str, request_sha256: str) -> Mapping[str, Any]:
        """The request without its input, with Backstop's id as `previous_response_id`; empty if it is not stored."""
        remembered = self._echoes.get(f"{tenant}\n{request_sha256}")
        if remembered is not None:
            return remembered
        asked = await self.asked_in_short(tenant, request_sha256)
        if asked is None:
            return {}
        echo = {name: value for name, value in asked.items() if name != "input"}
        named = echo.get(FIELD)
        if isinstance(named, str):
            echo[FIELD] = await self._previous.to_own(named, tenant)
        if len(canonical(echo)) <= ECHO_BYTES_MAX:
            self._echoes[f"{tenant}\n{request_sha256}"] = echo
            if len(self._echoes) > ECHOES_MAX:
                self._echoes.popitem(last=False)
        return echo

    def _remember_hidden(self, job_id: str) -> None:
        self._hidden[job_id] = None
        if len(self._hidden) > HIDDEN_REMEMBERED_MAX:
            self._hidden.popitem(last=False)


def unstored_marks(tenant: str, response_id: str) -> tuple[bytes, ...]:
    """What hides the response of a create with `store: false`; to be stored before the log has its job."""
    return (_tombstone(tenant, response_id, UNSTORED), _tombstone(tenant, response_id))


def _tombstone(tenant: str, response_id: str, kind: str = DELETED) -> bytes:
    """The blob that hides a response. Never change its form: deleted responses would be shown again."""
    return canonical({"backstop": kind, "tenant": tenant, "id": response_id})
