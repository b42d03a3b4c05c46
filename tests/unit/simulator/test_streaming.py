"""Streams of a background response: whole, resumed, and refused."""

import asyncio
from typing import Any

import openai
import pytest

from tests.unit.simulator.harness import NEVER_S, World, world


async def _streamed(w: World, **more: Any) -> list[Any]:
    stream = await w.sdk.responses.create(
        model="gpt-6-astra",
        input="y" * 450,
        background=True,
        stream=True,
        **more,
    )
    return [event async for event in stream]


def test_a_stream_tells_every_step_in_order() -> None:
    async def case() -> None:
        async with world() as w:
            events = await _streamed(w)
            assert [event.sequence_number for event in events] == list(range(len(events)))
            kinds = [event.type.removeprefix("response.") for event in events]
            assert kinds[:3] == ["created", "queued", "in_progress"]
            assert kinds[-1] == "completed"
            text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
            assert text == events[-1].response.output_text == "Echo: " + "y" * 450

    asyncio.run(case())


def test_a_stream_resumes_after_a_sequence_number() -> None:
    async def case() -> None:
        async with world() as w:
            events = await _streamed(w)
            response_id = events[0].response.id
            again = await w.sdk.responses.retrieve(response_id, stream=True, starting_after=3)
            assert [event async for event in again] == events[4:]

    asyncio.run(case())


def test_what_was_not_created_as_a_stream_cannot_be_streamed() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(metadata={"sim_run_s": NEVER_S})
            with pytest.raises(openai.BadRequestError, match="cannot be streamed"):
                await w.sdk.responses.retrieve(created.id, stream=True)

    asyncio.run(case())
