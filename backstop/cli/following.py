"""Follows a job to its end by polling the API."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp

from backstop.runtime.errors import BackstopError
from backstop.runtime.http.api_client import ApiError, ask, job_path
from backstop.runtime.process.clock import monotonic_s

ASK_AGAIN_S = 0.25
ASK_AGAIN_S_MAX = 2.0
APPEARS_WITHIN_S = 10.0
"""How long a job may be missing from the read model, which lags behind a submission by moments."""

AWAY_FOR_S_MAX = 60.0

Show = Callable[[dict[str, Any]], None]


class NotFoundError(BackstopError):
    """The API knows no such job."""


async def follow(session: aiohttp.ClientSession, job_id: str, changed: Show) -> dict[str, Any]:
    """Call `changed` with each new version of the job; return the last version once the job has ended.

    :raises NotFoundError: the job does not appear in the read model in time.
    :raises ApiError: the API is away for longer than `AWAY_FOR_S_MAX`, or refuses.
    """
    version, wait_s, well_s, began_s = -1, ASK_AGAIN_S, monotonic_s(), monotonic_s()
    while True:
        try:
            job = await ask(session, "GET", job_path(job_id))
        except ApiError as error:
            if error.status == 404 and monotonic_s() - began_s >= APPEARS_WITHIN_S and version < 0:
                raise NotFoundError(f"no job {job_id}") from None
            if error.status != 404 and (not error.passing or monotonic_s() - well_s > AWAY_FOR_S_MAX):
                raise
        else:
            well_s = monotonic_s()
            if job.get("version", 0) != version:
                version, wait_s = job.get("version", 0), ASK_AGAIN_S
                changed(job)
            if job.get("terminal"):
                return job
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 1.1, ASK_AGAIN_S_MAX)
