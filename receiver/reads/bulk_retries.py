"""The handler of `POST /v1/jobs/retry`: new jobs with the requests of ended ones.

A retry takes the way of any submission, with quotas, limits and claims. Its id is derived from the ended job's, so
that neither a repeat nor a second operator makes a second job.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NoReturn

from pydantic import ValidationError

from backstop.readmodel.database import DatabaseAwayError
from backstop.readmodel.queries import find_existing, request_of
from backstop.readmodel.rows import JobRow
from backstop.runtime.blobs import BlobStore, get_body
from backstop.runtime.errors import BlobMissingError, BlobStoreError
from receiver.ingress.jobs import refuse
from receiver.ingress.submissions import NotTaken, Submissions, Verdict
from receiver.problems import Refusal, reads_away, storage_unavailable
from receiver.reads.bulk_jobs import BulkAction, BulkJobs, counts, mark_of
from receiver.reads.bulk_routes import (
    RETRIED,
    RETRY_BATCH_MAX,
    RetriedView,
    RetryBatchView,
    RetryManyBody,
    RetryPlanView,
)
from schemas.base import Body
from schemas.job_ids import own_job_id, qualified_job_id
from schemas.jobs import RetryOf
from schemas.requests import TIMEOUT_MS_MAX, TIMEOUT_MS_MIN, Submit
from streams.retries import own_id_of_retry, prepare_retry

AT_ONCE: Final = 10
"""Retries of a batch that are submitted at one time: each may hold a request in memory."""


AllowsAgain = Callable[[Submit, str, str], Awaitable[bool]]
"""`(request, the ended job's own id, tenant)`: whether the tenant may submit it anew."""

Refused = Literal["without_request", "refused"]
"""Why a job was not retried; also the name of the list that it stands in."""


@dataclass(frozen=True, slots=True)
class Retrying:
    """What jobs are submitted with, and where large requests are."""

    submissions: Submissions
    blobs: BlobStore
    allows: AllowsAgain


class RetryMany(BulkAction[RetryManyBody]):
    body = RetryManyBody

    def __init__(self, jobs: BulkJobs, turn: asyncio.Lock, retrying: Retrying) -> None:
        super().__init__(jobs, turn)
        self._submissions = retrying.submissions
        self._blobs = retrying.blobs
        self._allows = retrying.allows

    async def _plan(self, asked: RetryManyBody, tenant: str) -> RetryPlanView:
        counted = await self._jobs.count(
            asked, tenant, _fit(asked), lambda rows: self._retried(rows, tenant)
        )  # fmt: skip
        means = await self._jobs.mean_costs(tenant)
        costs = [count * means[model] for model, count in counted.models.items() if model in means]
        view: RetryPlanView = {
            "object": "retry_plan", **counts(counted, "not_retried"),  # type: ignore[typeddict-item]
            "retried_before": counted.left_out,
            "without_estimate": sum(count for model, count in counted.models.items() if model not in means),
        }  # fmt: skip
        if costs:
            view["cost_usd"] = f"{sum(costs):.6f}"
        return view

    async def _retried(self, rows: Sequence[JobRow], tenant: str) -> Collection[str]:
        """The ids of those of these jobs that have a retry already."""
        names = {qualified_job_id(tenant, own_id_of_retry(row.job_id)): row.job_id for row in rows}
        known = await self._jobs.database.read(lambda conn: find_existing(conn, list(names)))
        return {names[name] for name in known}

    async def _act(self, asked: RetryManyBody, tenant: str) -> RetryBatchView:
        limit = min(asked.limit, RETRY_BATCH_MAX)
        found = await self._jobs.find(asked, tenant, _fit(asked), asked.cursor, limit)
        known = await self._retried(found.rows, tenant)
        rows = [row for row in found.rows if row.job_id not in known]
        made: list[RetriedView] = []
        left: dict[Refused, list[str]] = {}
        for begin in range(0, len(rows), AT_ONCE):
            part = rows[begin : begin + AT_ONCE]
            # All of them end before the answer, which tells what was submitted.
            verdicts = await asyncio.gather(*(self._submit(row, asked, tenant) for row in part), return_exceptions=True)
            failed: NotTaken | BaseException | None = None
            for row, verdict in zip(part, verdicts, strict=True):
                own = own_job_id(tenant, row.job_id)
                if isinstance(verdict, str):
                    left.setdefault(verdict, []).append(own)
                elif isinstance(verdict, NotTaken | BaseException):
                    failed = verdict
                else:
                    made.append({"job_id": own_id_of_retry(row.job_id), "retry_of": own})
            if failed is not None:
                self._refuse(failed, len(made))
        view: RetryBatchView = {
            "object": "retry_batch", "count": len(made), "retried_before": len(known), "jobs": made,
        }  # fmt: skip
        for name, job_ids in left.items():
            view[name] = job_ids
        if found.next is not None:
            view["next_cursor"] = mark_of(found.next)
        return view

    def _refuse(self, failed: NotTaken | BaseException, made: int) -> NoReturn:
        """End the batch. What was submitted is found again by a repeat, and left out.

        :raises Refusal: always, but for errors that are no refusals.
        """
        retry_after_s = self._jobs.publishing.limits.retry_after_s
        try:
            if isinstance(failed, NotTaken):
                refuse(failed, retry_after_s)
            if isinstance(failed, DatabaseAwayError):
                raise reads_away(retry_after_s)
            if isinstance(failed, BlobStoreError):
                raise storage_unavailable()
            raise failed
        except Refusal as refusal:
            problem = refusal.problem
            told = f"{made} jobs of this batch were submitted; a repeat leaves them out. Of the next one: "
            raise Refusal(replace(problem, detail=(told if made else "") + problem.detail)) from None

    async def _submit(self, row: JobRow, asked: RetryManyBody, tenant: str) -> Verdict | Refused:
        """Submit the retry, if its request is known and may be sent."""
        body = await self._jobs.database.read(lambda conn: request_of(conn, row.job_id))
        request = None if body is None else await self._request(body, row)
        if request is None:
            return "without_request"
        try:
            submit = Submit.model_validate({
                "request": request, "session_id": row.session_id, "tags": row.tags,
                "timeout_ms": asked.timeout_ms or _timeout_ms(row), "priority": asked.priority or row.priority,
            })  # fmt: skip
        except ValidationError:
            return "without_request"
        if not await self._allows(submit, own_job_id(tenant, row.job_id), tenant):
            return "refused"
        retry = RetryOf(job_id=row.job_id, why=str(asked.why), by=asked.by)
        prepared = await asyncio.to_thread(prepare_retry, submit, retry)
        job_id = qualified_job_id(tenant, own_id_of_retry(row.job_id))
        return await self._submissions.take(prepared, job_id, tenant, chosen=False)

    async def _request(self, body: Body, row: JobRow) -> dict[str, Any] | None:
        """The request as it was submitted: the log has it with the `prompt_cache_key` that was sent."""
        try:
            value = await get_body(self._blobs, body)
        except BlobMissingError:
            return None
        if row.cache_policy is None:
            return dict(value)
        request = {name: field for name, field in value.items() if name != "prompt_cache_key"}
        return request if row.cache_key is None else {**request, "prompt_cache_key": row.cache_key}


def _fit(asked: RetryManyBody) -> tuple[Any, ...]:
    """By ids any of them may be retried; by a filter without statuses those that failed or expired."""
    if asked.ids or asked.status:
        return RETRIED
    return ("failed", "expired")


def _timeout_ms(row: JobRow) -> int | None:
    """As long as the ended job had. None, for the default, where its deadline was moved to its past."""
    had_ms = (row.deadline_at_ms or 0) - row.submitted_at_ms
    return min(had_ms, TIMEOUT_MS_MAX) if had_ms >= TIMEOUT_MS_MIN else None
