import asyncio
from contextlib import suppress

import pytest

from backstop.runtime.turns import ResourceTurns, TooManyWaitingError

ONE, OTHER = ("one",), ("other",)


async def held(turns: ResourceTurns, owner: tuple[str, ...], until: asyncio.Event) -> None:
    async with turns.turn(owner):
        await until.wait()


async def passes() -> None:
    """All tasks have run as far as they can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def ended(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("cancelled", [[0], [1], [0, 1], [0, 1, 2]])
@pytest.mark.parametrize("released_first", [True, False], ids=["place before cancel", "cancel before place"])
def test_no_place_is_lost_where_one_that_waits_is_cancelled_as_a_place_comes_free(
    cancelled: list[int], *, released_first: bool
) -> None:
    async def story() -> None:
        turns, done, never = ResourceTurns(2, waiting_max=3), asyncio.Event(), asyncio.Event()
        holding = asyncio.create_task(held(turns, ONE, done))
        await passes()
        waiting = [asyncio.create_task(held(turns, ONE, never)) for _ in range(3)]
        await passes()
        if released_first:
            done.set()
        for number in cancelled:
            waiting[number].cancel()  # in the same pass of the loop, as the time limits of a burst do
        done.set()
        await ended([holding])
        await passes()
        for task in waiting:
            task.cancel()
        await ended(waiting)
        async with asyncio.timeout(1), turns.turn(ONE), turns.turn(OTHER):
            pass

    asyncio.run(story())


def test_the_owner_that_holds_fewest_is_next_and_each_has_a_bounded_number_that_wait() -> None:
    async def story() -> None:
        turns, order = ResourceTurns(1, waiting_max=2), list[str]()

        async def take(owner: tuple[str, ...]) -> None:
            async with turns.turn(owner):
                order.append(owner[0])
                await asyncio.sleep(0)

        done = asyncio.Event()
        holding = asyncio.create_task(held(turns, ONE, done))
        await passes()
        waiting = [asyncio.create_task(take(owner)) for owner in (ONE, ONE, OTHER, OTHER)]
        await passes()
        with pytest.raises(TooManyWaitingError):
            await take(ONE)
        done.set()
        await ended([holding, *waiting])
        assert order == ["one", "other", "one", "other"]

    asyncio.run(story())
