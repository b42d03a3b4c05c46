"""Requests over HTTP as clients make them: again, while the log does not acknowledge them in time."""

import io
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import aiohttp

from backstop.runtime.http.api_client import ApiError, submit
from tests.support.waiting import eventually, wait_until

WITHIN_S = 60.0
UNACKNOWLEDGED = "log_unavailable"
"""The code of the one refusal that is repeated."""


async def accepted(session: aiohttp.ClientSession, body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer that accepts the job; `body` has its `job_id`, so a repeat is the same job."""

    async def asked() -> dict[str, Any] | ApiError | None:
        try:
            return await submit(session, body)
        except ApiError as error:
            return None if error.code == UNACKNOWLEDGED else error

    answer = await eventually(asked, WITHIN_S, f"the acceptance of {body['job_id']}")
    if isinstance(answer, ApiError):
        raise answer
    return answer


def answered(request: Request) -> bytes:
    """The body of the answer to a request that is harmless to repeat.

    :raises HTTPError: another refusal.
    """

    def asked() -> tuple[bytes, HTTPError | None] | None:
        try:
            with urlopen(request, timeout=30) as answer:
                return answer.read(), None
        except HTTPError as error:
            with error:
                said = error.read()
            if UNACKNOWLEDGED.encode() in said:
                return None
            return b"", HTTPError(error.url, error.code, error.msg, error.headers, io.BytesIO(said))

    body, refused = wait_until(asked, WITHIN_S, f"an answer to {request.full_url}")
    if refused is not None:
        raise refused
    return body
