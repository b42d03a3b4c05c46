"""Tools and wanted forms at the simulator, as the round trips of a caller need them."""

import asyncio
import json
from typing import Any

import openai
import pytest

from backstop.simulator.model import example
from tests.unit.backstop.simulator.harness import world

WEATHER = {
    "type": "function", "name": "weather", "strict": True,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                   "required": ["city", "days"], "additionalProperties": False},
}  # fmt: skip


async def _streamed(client: Any, **asked: Any) -> list[Any]:
    stream = await client.responses.create(model="gpt-6-astra", background=True, stream=True, **asked)
    return [event async for event in stream]


def test_a_function_is_called_once_and_its_output_is_said() -> None:
    async def case() -> None:
        async with world() as w:
            given: list[Any] = [{"role": "user", "content": "How is it there?"}]
            events = await _streamed(w.sdk, input=given, tools=[WEATHER])
            (call,) = events[-1].response.output
            assert (call.type, call.name, json.loads(call.arguments)) == (
                "function_call", "weather", {"city": "Paris", "days": 1}
            )  # fmt: skip
            deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
            assert "".join(deltas) == call.arguments
            given += [call.model_dump(), {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
            events = await _streamed(w.sdk, input=given, tools=[WEATHER])
            assert events[-1].response.output_text == "The tool said: sunny"

    asyncio.run(case())


def test_a_caller_that_names_the_response_before_sends_the_output_alone() -> None:
    """As Agno does: the call stands in the response before, so that the input can't say that it was made."""

    async def case() -> None:
        async with world() as w:
            before = (await _streamed(w.sdk, input="How is it there?", tools=[WEATHER]))[-1].response
            output: Any = {"type": "function_call_output", "call_id": before.output[0].call_id, "output": "sunny"}
            events = await _streamed(w.sdk, input=[output], tools=[WEATHER], previous_response_id=before.id)
            assert events[-1].response.output_text == "The tool said: sunny"

    asyncio.run(case())


def test_no_function_is_called_where_none_may_be() -> None:
    async def case() -> None:
        async with world() as w:
            events = await _streamed(w.sdk, input="Hi.", tools=[WEATHER], tool_choice="none")
            assert events[-1].response.output_text == "Echo: Hi."
            named = {"type": "function", "name": "other"}
            events = await _streamed(w.sdk, input="Hi.", tools=[WEATHER], tool_choice=named)
            assert events[-1].response.output_text == "Echo: Hi."

    asyncio.run(case())


def test_a_wanted_form_is_kept() -> None:
    async def case() -> None:
        async with world() as w:
            form = {"type": "json_schema", "name": "w", "schema": WEATHER["parameters"], "strict": True}
            events = await _streamed(w.sdk, input="Hi.", text={"format": form})
            assert json.loads(events[-1].response.output_text) == {"city": "Paris", "days": 1}

    asyncio.run(case())


def test_there_are_names_of_models_that_do_not_exist() -> None:
    async def case() -> None:
        async with world() as w:
            with pytest.raises(openai.NotFoundError) as raised:
                await w.sdk.responses.create(model="no-such-model", input="Hi.", background=True)
            assert raised.value.code == "model_not_found"

    asyncio.run(case())


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "b": {"const": 3}}}, {"a": "x", "b": 3}),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer", "minimum": 5}}}, 5),
        ({"type": "integer", "minimum": -(2**53)}, 1),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, 1.5),
        ({"type": ["string", "null"]}, "Paris"),
        ({"$ref": "#"}, None),
        (True, None),
    ],
)
def test_an_example_is_one_that_the_schema_takes(schema: Any, value: Any) -> None:
    assert example(schema, schema if isinstance(schema, dict) else {}) == value
