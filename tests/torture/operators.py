"""Operators beside the faults: they pause models, change priorities and deadlines, and retry what ended, all over HTTP.

What they do is drawn from the seed. An action may fail half-way, as `serve` is killed too; a later one repeats it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import aiohttp

from backstop.dev.sample_jobs import MODELS
from backstop.runtime.http.api_client import ApiError, ask
from backstop.runtime.process.clock import NowMs
from streams.policy.limits import PRIORITIES
from tests.torture.rig import Rig

BETWEEN_S: Final = (1.0, 4.0)
PAUSE_S: Final = (1.0, 5.0)
BATCHES_MAX: Final = 5
"""Of one action: then the rest is left to a later one, as if the operator had broken it off."""
BATCH: Final = 20
AGAIN_S: Final = 0.5
WHO: Final = {"why": "torture", "by": "operator"}


class Operators:
    """`done` counts what was acknowledged: batches by action, and pauses."""

    def __init__(self, rig: Rig, now_ms: NowMs) -> None:
        self.done: Counter[str] = Counter()
        self._rig = rig
        self._now_ms = now_ms
        self._random = random.Random(f"operators {rig.plan.seed}")

    async def run(self) -> None:
        """Until cancelled. Nothing stays paused."""
        actions: dict[Callable[[], Awaitable[None]], int] = {
            self._paused: 2, self._prioritised: 3, self._extended: 2, self._shortened: 1, self._retried: 2,
        }  # fmt: skip
        async with aiohttp.ClientSession(self._rig.url, timeout=aiohttp.ClientTimeout(total=10)) as session:
            self._session = session
            try:
                while True:
                    await asyncio.sleep(self._random.uniform(*BETWEEN_S))
                    (action,) = self._random.choices(list(actions), weights=list(actions.values()))
                    with suppress(ApiError, aiohttp.ClientError, TimeoutError, OSError):
                        await action()
            finally:
                await self._resume_all()

    async def _paused(self) -> None:
        model = self._random.choice(MODELS)
        pause = await ask(self._session, "POST", "/v1/lanes/pause", json={"model": model, **WHO})
        self.done["operator_paused"] += 1
        await asyncio.sleep(self._random.uniform(*PAUSE_S))
        await ask(self._session, "POST", "/v1/lanes/resume", json={"pause_id": pause["id"], **WHO})

    async def _prioritised(self) -> None:
        await self._change("operator_prioritised", priority=self._random.choice(PRIORITIES))

    async def _extended(self) -> None:
        await self._change("operator_extended", deadline_at_ms=self._now_ms() + self._rig.plan.timeout_ms)

    async def _shortened(self) -> None:
        """Now and then to a time that has passed: then the jobs end at once."""
        soon_ms = self._random.choice((-1, 2_000, 15_000))
        await self._change("operator_shortened", deadline_at_ms=self._now_ms() + soon_ms, limit=3, batches=1)

    async def _change(self, name: str, *, limit: int = BATCH, batches: int = BATCHES_MAX, **values: Any) -> None:
        await self._batches("/v1/jobs/change", name, {"model": self._random.choice(MODELS), **values}, limit, batches)

    async def _retried(self) -> None:
        wanted = {"status": ["failed", "expired", "cancelled"], "timeout_ms": self._rig.plan.timeout_ms}
        await self._batches("/v1/jobs/retry", "operator_retried", wanted, BATCH, BATCHES_MAX)

    async def _batches(self, path: str, name: str, wanted: dict[str, Any], limit: int, most: int) -> None:
        body = {**wanted, "execute": True, "limit": limit, **WHO}
        for _ in range(most):
            batch = await ask(self._session, "POST", path, json=body)
            self.done[name] += bool(batch["count"])
            self.done[f"{name}_jobs"] += batch["count"]
            if "next_cursor" not in batch:
                return
            body["cursor"] = batch["next_cursor"]

    async def _resume_all(self) -> None:
        """At the end; tried again while `serve` or the broker is away."""
        while True:
            try:
                for pause in (await ask(self._session, "GET", "/v1/lanes"))["pauses"]:
                    await ask(self._session, "POST", "/v1/lanes/resume", json={"pause_id": pause["id"], **WHO})
            except (ApiError, aiohttp.ClientError, TimeoutError, OSError):
                await asyncio.sleep(AGAIN_S)
            else:
                return
