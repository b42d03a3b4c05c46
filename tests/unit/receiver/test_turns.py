"""Requests begin in bounded numbers in each pass of the loop, and addresses take turns."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from receiver.turns import LoopTurns


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def running() -> None:
        await story()

    asyncio.run(running())


def test_a_pass_begins_a_bounded_number_and_all_begin_in_the_end() -> None:
    async def story() -> None:
        turns, begun, seen = LoopTurns(each_pass=3), [0], []

        async def request(owner: str) -> None:
            await turns.take(owner)
            begun[0] += 1

        tasks = [asyncio.create_task(request(f"address-{number % 2}")) for number in range(20)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)  # one pass
            seen.append(begun[0])
        assert begun[0] == 20
        assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) <= 3

    run(story)


def test_an_address_with_many_requests_waits_behind_itself() -> None:
    async def story() -> None:
        turns, order = LoopTurns(each_pass=1), []

        async def request(owner: str) -> None:
            await turns.take(owner)
            order.append(owner)

        await asyncio.gather(*(request("flood") for _ in range(50)), request("other"))
        assert order.index("other") <= 2

    run(story)


def test_alone_a_request_does_not_wait() -> None:
    async def story() -> None:
        turns = LoopTurns(each_pass=1)
        for _ in range(3):
            taken = turns.take("a")
            with pytest.raises(StopIteration):
                taken.send(None)
            await asyncio.sleep(0)

    run(story)


def test_a_request_that_was_cancelled_takes_no_turn() -> None:
    async def story() -> None:
        turns = LoopTurns(each_pass=1)
        waiting = [asyncio.create_task(turns.take("a")) for _ in range(5)]
        await asyncio.sleep(0)
        for task in waiting[1:4]:
            task.cancel()
        await asyncio.wait_for(waiting[4], 5)
        assert sum(task.cancelled() for task in waiting) == 3

    run(story)


def test_what_fails_to_begin_holds_up_no_other() -> None:
    async def story() -> None:
        turns, begun = LoopTurns(each_pass=1), []

        def fail() -> None:
            raise RuntimeError("a defect of what begins")

        assert turns.now()
        assert not turns.now()
        turns.later("a", fail)
        turns.later("a", lambda: begun.append("a"))
        turns.later("b", lambda: begun.append("b"))
        for _ in range(6):
            await asyncio.sleep(0)
        assert begun == ["b", "a"]
        assert turns.now(), "and the next begins at once"

    run(story)
