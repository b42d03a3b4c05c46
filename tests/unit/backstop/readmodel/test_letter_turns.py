"""Turns of decisions about dead letters: what waits for what, and which request is too many."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from receiver.problems import Refusal
from receiver.reads.letter_turns import TURNS_MAX, LetterTurns


async def is_busy(turns: LetterTurns, tenant: str) -> bool:
    try:
        async with asyncio.timeout(0.01), turns.of(tenant):
            return False
    except Refusal as refused:
        problem = refused.problem
        assert (problem.status, problem.code, problem.headers["Retry-After"]) == (503, "busy", "2")
        return True


def test_of_a_tenant_one_runs_and_one_waits_and_other_tenants_do_not() -> None:
    async def body() -> None:
        turns, order = LetterTurns(2), list[str]()

        async def second() -> None:
            async with turns.of("acme"):
                order.append("second")

        async with turns.of("acme"):
            waiting = asyncio.create_task(second())
            await asyncio.sleep(0)
            assert await is_busy(turns, "acme")
            assert not await is_busy(turns, "globex")
            order.append("first")
        await waiting
        assert order == ["first", "second"]
        assert not await is_busy(turns, "acme")

    asyncio.run(body())


def test_one_that_stops_waiting_makes_room() -> None:
    async def body() -> None:
        turns = LetterTurns(2)
        async with turns.of("acme"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), turns.of("acme"):
                    raise AssertionError("two run")
            with pytest.raises(TimeoutError):
                await is_busy(turns, "acme")

    asyncio.run(body())


def test_all_tenants_together_have_a_limit() -> None:
    async def body() -> None:
        turns = LetterTurns(2)
        async with AsyncExitStack() as stack:
            for number in range(TURNS_MAX - 1):
                await stack.enter_async_context(turns.of(f"t{number}"))
            assert not await is_busy(turns, "last")
            await stack.enter_async_context(turns.of("last"))
            assert await is_busy(turns, "other")
        assert not await is_busy(turns, "other")

    asyncio.run(body())
