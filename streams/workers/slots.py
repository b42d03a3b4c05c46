"""A bounded number of calls in flight."""

import asyncio


class Slots:
    """A caller checks `free`, takes a slot for each call, and gives it back afterwards."""

    def __init__(self, slots_max: int) -> None:
        self._max = slots_max
        self._taken = 0
        self._given_back = asyncio.Event()

    @property
    def free(self) -> int:
        return self._max - self._taken

    @property
    def taken(self) -> int:
        return self._taken

    def take(self) -> None:
        assert self._taken < self._max, "a slot was taken where none was free"
        self._taken += 1

    def give_back(self) -> None:
        self._taken -= 1
        self._given_back.set()

    async def some_free(self, wait_ms: int) -> bool:
        """Whether a slot is free now or becomes free within `wait_ms`."""
        try:
            async with asyncio.timeout(wait_ms / 1_000):
                while self._taken >= self._max:
                    self._given_back.clear()
                    await self._given_back.wait()
        except TimeoutError:
            pass
        return self._taken < self._max

    async def all_free(self) -> None:
        while self._taken:
            self._given_back.clear()
            await self._given_back.wait()
