"""The driver of a run: submits sample jobs, reads their results, and keeps both for the judge."""

import asyncio
from contextlib import suppress

from backstop.dev.judge import Acknowledged, Result
from backstop.dev.sample_jobs import feed, sample
from backstop.dev.upstream import RequestWriter, ResultReader
from backstop.runtime.process.clock import NowMs
from backstop.runtime.settings import RuntimeSettings
from schemas.results import JobResult

POLL_S = 0.1


class Driver:
    """One run of sample jobs. `acknowledged` and `results` grow during the run."""

    def __init__(self, runtime: RuntimeSettings, url: str, now_ms: NowMs) -> None:
        self.acknowledged: list[Acknowledged] = []
        self.results: list[Result] = []
        self.finished: set[str] = set()
        self._url = url
        self._now_ms = now_ms
        self._reader = ResultReader(runtime)
        self._writer = RequestWriter(runtime)
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to read results. Call it before the first `submit`."""
        await self._reader.start()
        await self._writer.start()
        self._reading = asyncio.create_task(self._read(), name="read-results")

    async def stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._writer.stop()
        await self._reader.stop()

    async def submit(self, name: str, count: int, rate_per_s: float, timeout_ms: int, retries_max: int) -> None:
        """Submit `count` jobs named after `name`; returns when all are acknowledged."""
        jobs = [sample(name, number, timeout_ms, retries_max) for number in range(1, count + 1)]
        await feed(
            jobs, rate_per_s=rate_per_s, url=self._url, writer=self._writer, now_ms=self._now_ms,
            told=self.acknowledged.append,
        )  # fmt: skip

    async def until_finished(self, within_s: float) -> bool:
        """Wait until each acknowledged job has a result; False when one is missing after `within_s`.

        :raises BrokerUnavailableError: results can no longer be read.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.open():
                    self._check_reading()
                    await asyncio.sleep(POLL_S)
        return not self.open()

    def open(self) -> int:
        """Acknowledged jobs without a result."""
        return sum(job.job_id not in self.finished for job in self.acknowledged)

    async def _read(self) -> None:
        async for result in self._reader.read():
            self.results.append(_seen(result, self._now_ms()))
            self.finished.add(result.job_id)

    def _check_reading(self) -> None:
        if self._reading is not None and self._reading.done():
            self._reading.result()


def _seen(result: JobResult, seen_at_ms: int) -> Result:
    decisive = [brief for brief in result.attempts if brief.outcome == result.outcome and brief.response_id]
    return Result(
        job_id=result.job_id,
        outcome=result.outcome,
        found_by=result.found_by,
        seen_at_ms=seen_at_ms,
        attempts=frozenset(brief.attempt for brief in result.attempts),
        response_id=decisive[-1].response_id if decisive else None,
        unpaid=frozenset(brief.attempt for brief in result.attempts if brief.outcome == "failed" and not brief.usage),
    )
