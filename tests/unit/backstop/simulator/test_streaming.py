"""Streams of a background response: whole, resumed, and refused."""

import asyncio
from typing import Any

import openai
import pytest

from tests.unit.backstop.simulator.harness import NEVER_S, World, world


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


def test_text_comes_while_the_response_runs() -> None:
    async def case() -> None:
        async with world() as w:
            stream = await w.sdk.responses.create(
                model="gpt-6-astra", input="Hello", background=True, stream=True, metadata={"sim_run_s": "1"}
            )
            response_id, statuses = "", set()
            async for event in stream:
                if event.type == "response.created":
                    response_id = event.response.id
                if event.type == "response.output_text.delta":
                    statuses.add((await w.sdk.responses.retrieve(response_id)).status)
            assert "in_progress" in statuses

    asyncio.run(case())


async def _all_of(stream: Any) -> tuple[list[Any], Exception | None]:
    """What came, and what ended it."""
    events: list[Any] = []
    try:
        await _collect(stream, events)
    except Exception as error:
        return events, error
    return events, None


async def _collect(stream: Any, events: list[Any]) -> None:
    async for event in stream:
        events.append(event)  # noqa: PERF401 - what came before an error counts


FAULTY = {
    "stream_drop=3": ([0, 1, 2], openai.APIConnectionError),
    "stream_close=3": ([0, 1, 2], None),
    "stream_error=1": ([0, 0], None),
    "stream_twice": ([0, 0, 1, 1, 2, 2], None),
    "stream_swapped": ([1, 0, 3, 2], None),
    "stream_delay=0.05": ([0, 1, 2, 3], None),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_stream_is_struck_once_and_then_goes_on_where_it_was(fault: str) -> None:
    numbers, ends = FAULTY[fault]

    async def case() -> None:
        async with world() as w:
            whole = await _streamed(w, metadata={"sim_fault": fault})
            response_id = whole[0].response.id
            struck, error = await _all_of(await w.sdk.responses.retrieve(response_id, stream=True))
            assert [getattr(event, "sequence_number", None) for event in struck][: len(numbers)] == numbers
            assert error is None if ends is None else isinstance(error, ends)
            again, error = await _all_of(await w.sdk.responses.retrieve(response_id, stream=True, starting_after=2))
            assert (again, error) == (whole[3:], None)

    asyncio.run(case())


@pytest.mark.parametrize(("fault", "status"), [("400", 400), ("404", 404), ("429", 429), ("500", 500)])
def test_a_stream_is_refused(fault: str, status: int) -> None:
    async def case() -> None:
        async with world() as w:
            whole = await _streamed(w, metadata={"sim_fault": f"stream_{fault}"})
            with pytest.raises(openai.APIStatusError) as refused:
                await w.sdk.responses.retrieve(whole[0].response.id, stream=True)
            assert refused.value.status_code == status
            assert {line["op"] for line in await w.ledger("calls")} == {"create", "stream"}

    asyncio.run(case())


def test_a_stream_may_never_end() -> None:
    async def case() -> None:
        async with world() as w:
            whole = await _streamed(w, metadata={"sim_fault": "stream_endless"})
            events: list[Any] = []
            stream = await w.sdk.responses.retrieve(whole[0].response.id, stream=True)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_collect(stream, events), 0.5)
            assert events == whole[:-1]

    asyncio.run(case())


def test_a_create_may_be_accepted_and_its_stream_be_empty() -> None:
    async def case() -> None:
        async with world() as w:
            metadata = {"job": "job_1", "sim_fault": "create_accept_empty_stream"}
            assert await _streamed(w, metadata=metadata) == []
            (created,) = await w.ledger("creates")
            assert created["fault"] == "create_accept_empty_stream"

    asyncio.run(case())


@pytest.mark.parametrize("fault", ["run_failed", "run_incomplete", "run_empty_output"])
def test_every_end_but_a_cancel_has_its_event(fault: str) -> None:
    async def case() -> None:
        async with world() as w:
            events = await _streamed(w, metadata={"sim_fault": fault})
            assert [event.sequence_number for event in events] == list(range(len(events)))
            assert events[-1].type == f"response.{events[-1].response.status}"

    asyncio.run(case())
