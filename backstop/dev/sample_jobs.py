"""Sample jobs for `backstop dev --jobs` and `backstop demo`, half of them over Kafka, half over HTTP. The same name and
number give the same job.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import aiohttp

from backstop.dev.judge import Acknowledged
from backstop.dev.upstream import RequestWriter
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.http.api_client import ApiError, submit
from backstop.runtime.process.clock import NowMs
from schemas.requests import Submit

MODELS: Final = ("gpt-5.2", "gpt-5.2", "gpt-5.2-mini", "o4-deep-research")
SUBJECTS: Final = (
    "the harbour's tide tables", "a year of support tickets", "three competing grant proposals", "the migration plan",
    "the week's incident reports", "forty pages of minutes", "the draft of chapter nine", "a season of sensor readings",
)  # fmt: skip
TASKS: Final = (
    "Summarise",
    "Find contradictions in",
    "Rank by urgency",
    "Translate and check",
    "Explain to a newcomer",
)
STREAMED: Final = 8
"""Of this many jobs two ask for partial output, one on each ingress."""

TRY_AGAIN_S: Final = 0.5
CONCURRENCY: Final = 16

Told = Callable[[Acknowledged], None]


def sample(name: str, number: int, timeout_ms: int, retries_max: int) -> Submit:
    """Job `number` of the run `name`."""
    task, subject = TASKS[number % len(TASKS)], SUBJECTS[number % len(SUBJECTS)]
    return Submit(
        job_id=f"{name}-{number:05d}",
        request={
            "model": MODELS[number % len(MODELS)],
            "input": f"{task} {subject} (sample {number}).",
            **({"stream": True} if number % STREAMED < 2 else {}),
        },
        timeout_ms=timeout_ms,
        retries_max=retries_max,
        session_id=f"{name}-session-{number % 10}",
        tags=("sample", name),
    )


async def feed(
    jobs: list[Submit], *, rate_per_s: float, url: str, writer: RequestWriter, now_ms: NowMs, told: Told
) -> None:
    """Submit all jobs, odd numbers over Kafka, at about `rate_per_s`; `told` is called with each acknowledgement.

    A job that is refused for now is sent again; its job id makes that harmless.
    """
    gate = asyncio.Semaphore(CONCURRENCY)
    async with aiohttp.ClientSession(url) as session, asyncio.TaskGroup() as group:

        async def one(number: int, job: Submit) -> None:
            async with gate:
                over_kafka = number % 2 == 1
                sent_at_ms = now_ms()
                await (_over_kafka(writer, job) if over_kafka else _over_http(session, job))
                assert job.job_id is not None
                told(Acknowledged(job.job_id, "kafka" if over_kafka else "http", sent_at_ms, job.retries_max or 0))

        for number, job in enumerate(jobs):
            group.create_task(one(number, job))
            await asyncio.sleep(1 / rate_per_s)


async def _over_kafka(writer: RequestWriter, job: Submit) -> None:
    while True:
        try:
            await writer.send(job)
            return
        except BrokerUnavailableError:
            await asyncio.sleep(TRY_AGAIN_S)


async def _over_http(session: aiohttp.ClientSession, job: Submit) -> None:
    while True:
        try:
            await submit(session, job.model_dump(mode="json", exclude_none=True))
            return
        except ApiError as error:
            if not error.passing:
                raise
            await asyncio.sleep(TRY_AGAIN_S)
