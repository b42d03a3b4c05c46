"""A budget that stops creates, and is raised each time that it does: what waits goes on, and later it stops again.

It is raised above what is used by then: a budget below that would hold the creates for most of a run, and prove little.

Nothing stays stopped at the end of the faults. The processes that read the budget are killed to read the next one.
"""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import Final

import aiohttp

from backstop.runtime.http.api_client import ApiError, ask
from tests.torture.children import Kind
from tests.torture.plan import FIRST_USD, budget_of
from tests.torture.rig import Rig

GROWTH: Final = 1.2
"""A new budget, as a multiple of what is spent and reserved."""
UNLIMITED_USD: Final = 10**9
ASK_S: Final = 1.0
STOPPED_S: Final = (1.0, 8.0)
LIFTED_WITHIN_S: Final = 60.0
READERS: Final[tuple[Kind, ...]] = ("serve", "projection")


class Money:
    """`done` counts how often the budget stopped creates and was raised."""

    def __init__(self, rig: Rig) -> None:
        self.done: Counter[str] = Counter()
        self._rig = rig
        self._random = random.Random(f"money {rig.plan.seed}")

    async def run(self) -> None:
        """Until cancelled."""
        async with aiohttp.ClientSession(self._rig.url, timeout=aiohttp.ClientTimeout(total=10)) as session:
            while True:
                await asyncio.sleep(ASK_S)
                if not await self._stops(session):
                    continue
                self.done["budget_stopped"] += 1
                await asyncio.sleep(self._random.uniform(*STOPPED_S))
                self._raise_to(max(FIRST_USD, GROWTH * await self._used(session)))
                self.done["budget_raised"] += 1
                await self._ended(session)

    async def lift(self) -> None:
        """Nothing is stopped any more, or `LIFTED_WITHIN_S` have passed: then the judge finds what waits."""
        self._raise_to(UNLIMITED_USD)
        async with aiohttp.ClientSession(self._rig.url, timeout=aiohttp.ClientTimeout(total=10)) as session:
            await self._ended(session)

    async def _ended(self, session: aiohttp.ClientSession) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LIFTED_WITHIN_S):
                while await self._stops(session) is not False:
                    await asyncio.sleep(ASK_S)

    def _raise_to(self, usd: float) -> None:
        for kind in READERS:
            for child in self._rig.of_kind(kind):
                child.set(budget_of(usd))
                child.kill()

    async def _used(self, session: aiohttp.ClientSession) -> float:
        """Dollars spent and reserved; asked until there is an answer."""
        while True:
            with suppress(ApiError, aiohttp.ClientError, TimeoutError, OSError):
                (budget,) = (await ask(session, "GET", "/v1/costs"))["budgets"]
                return float(budget["spent_usd"]) + float(budget["reserved_usd"])
            await asyncio.sleep(ASK_S)

    async def _stops(self, session: aiohttp.ClientSession) -> bool | None:
        """Whether the budget holds creates; None where nothing answers."""
        try:
            pauses = (await ask(session, "GET", "/v1/lanes"))["pauses"]
        except (ApiError, aiohttp.ClientError, TimeoutError, OSError):
            return None
        return any("budget" in pause for pause in pauses)
