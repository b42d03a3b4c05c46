"""Follows the partial output of a job: one stream of the API, reopened after its last event when it breaks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import orjson

from backstop.cli.following import AWAY_FOR_S_MAX, NotFoundError
from backstop.runtime.http.api_client import ApiError, job_path, refused
from backstop.runtime.process.clock import monotonic_s

OPEN_AGAIN_S = 0.5
SILENCE_S = 60.0
"""The API sends at least a comment every 15 s."""

TEXT = "response.output_text.delta"

Show = Callable[[str, dict[str, Any]], None]


async def stream(session: aiohttp.ClientSession, job_id: str, show: Show) -> dict[str, Any]:
    """Call `show(kind, data)` for each event; return the data of the last event, the job's result.

    :raises NotFoundError: the API knows no such job.
    :raises ApiError: the API is away for longer than `AWAY_FOR_S_MAX`, or refuses.
    """
    seen, well_s = "", monotonic_s()
    while True:
        try:
            async for event_id, kind, data in _events(session, job_id, seen):
                seen, well_s = event_id or seen, monotonic_s()
                show(kind, data)
                if kind == "result":
                    return data
        except ApiError as error:
            if error.status == 404:
                raise NotFoundError(f"no job {job_id}") from None
            if not error.passing or monotonic_s() - well_s > AWAY_FOR_S_MAX:
                raise
        await asyncio.sleep(OPEN_AGAIN_S)


async def _events(
    session: aiohttp.ClientSession, job_id: str, behind: str
) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
    """Id, kind and data of each event, until the stream ends."""
    headers = {"Last-Event-ID": behind} if behind else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENCE_S)
    try:
        async with session.get(job_path(job_id, "/stream"), headers=headers, timeout=timeout) as answer:
            if answer.status != 200:
                raise refused(answer.status, await answer.read())
            rest = b""
            async for chunk in answer.content.iter_any():
                *blocks, rest = (rest + chunk).split(b"\n\n")
                for block in blocks:
                    fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line)
                    if b"data" in fields:
                        kind = fields.get(b"event", b"message").decode()
                        yield fields.get(b"id", b"").decode(), kind, orjson.loads(fields[b"data"])
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ApiError(0, "no_answer", f"no answer: {error or type(error).__name__}") from error
