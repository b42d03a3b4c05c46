"""Collects the records of a run's four witnesses into one `Evidence`. The provider's ledgers are read from files."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from backstop.dev.driver import Driver
from backstop.dev.invariants import Create
from backstop.dev.judge import Acknowledged, Evidence, HeardWebhook, Result
from backstop.dev.system import System
from backstop.runtime.http.api_client import ApiError, ask
from schemas.statuses import END_RESPONSE_STATUSES

ENDS = frozenset(END_RESPONSE_STATUSES)
ROWS_CONCURRENCY = 16
ROWS_WITHIN_S = 15.0
ASK_AGAIN_S = 0.25


async def collect(driver: Driver, system: System) -> Evidence:
    """The evidence of a run that is over. Waits up to `ROWS_WITHIN_S` for the read model, which lags the results."""
    ledgers = system.ledgers
    return Evidence(
        acknowledged=list(driver.acknowledged),
        results=list(driver.results),
        creates=creates(ledgers),
        rows=await rows(system.url, driver.acknowledged, driver.results),
        ended_at_ms=ends(ledgers),
        webhooks=webhooks(ledgers),
        restarts=system.restarts,
    )


def creates(ledgers: Path) -> list[Create]:
    return [
        Create(
            response_id=line["response"],
            job_id=line["job"],
            attempt=_number(line["attempt"]),
            at_ms=line["at_ms"],
            replied=line["replied"],
        )
        for line in ledger_lines(ledgers / "creates.jsonl")
    ]


def ends(ledgers: Path) -> dict[str, int]:
    """Response id → time of its first end, in Unix milliseconds."""
    ended: dict[str, int] = {}
    for line in ledger_lines(ledgers / "truth.jsonl"):
        if line["state"] in ENDS:
            ended.setdefault(line["response"], line["at_ms"])
    return ended


def webhooks(ledgers: Path) -> list[HeardWebhook]:
    """Per response, the first delivery of its genuine webhook that was answered with a 2xx, with its time of
    sending.
    """
    sent: dict[str, HeardWebhook] = {}
    for line in ledger_lines(ledgers / "deliveries.jsonl"):
        if line["authentic"] and line["outcome"] == "delivered" and line["response"]:
            sent.setdefault(line["response"], HeardWebhook(line["response"], line["at_ms"] - int(line["took_ms"] or 0)))
    return list(sent.values())


async def rows(url: str, jobs: Sequence[Acknowledged], results: Sequence[Result]) -> dict[str, str]:
    """Job id → status of `GET /v1/jobs/ID`. A status that differs from the job's result is asked for again, until
    `ROWS_WITHIN_S` have passed.
    """
    outcome = {result.job_id: result.outcome for result in results}
    statuses: dict[str, str] = {}
    gate = asyncio.Semaphore(ROWS_CONCURRENCY)

    async with aiohttp.ClientSession(url) as session:

        async def poll(job_id: str) -> None:
            async with gate:
                try:
                    statuses[job_id] = str((await ask(session, "GET", f"/v1/jobs/{job_id}")).get("status"))
                except ApiError as error:
                    if error.status != 404 and not error.passing:
                        raise

        open_ids = [job.job_id for job in jobs]
        deadline_s = asyncio.get_running_loop().time() + ROWS_WITHIN_S
        while open_ids and asyncio.get_running_loop().time() < deadline_s:
            await asyncio.gather(*(poll(job_id) for job_id in open_ids))
            open_ids = [job_id for job_id in open_ids if statuses.get(job_id) != outcome.get(job_id)]
            if open_ids:
                await asyncio.sleep(ASK_AGAIN_S)
    return statuses


def ledger_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a ledger. A line that its writer has not ended, or never will after a kill, is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            with suppress(orjson.JSONDecodeError):
                yield orjson.loads(line)


def _number(attempt: Any) -> int | None:
    text = str(attempt)
    return int(text) if text.isdecimal() else None
