"""The official Python SDK, asynchronous."""

import asyncio
import json
from typing import Any

from features import ASK, FORM, MODEL, NO_MODEL, SAY, TOOL, error_of, run, twice, weather
from openai import AsyncOpenAI


async def plain(model: str = MODEL) -> Any:
    async with AsyncOpenAI() as client:
        return (await client.responses.create(model=model, input=SAY)).output_text


async def streamed() -> Any:
    async with AsyncOpenAI() as client:
        events = await client.responses.create(model=MODEL, input=SAY, stream=True)
        return [event.delta async for event in events if event.type == "response.output_text.delta"]


async def tools() -> Any:
    async with AsyncOpenAI() as client:
        given: list[Any] = [{"role": "user", "content": ASK}]
        response = await client.responses.create(model=MODEL, input=given, tools=[TOOL])
        for item in response.output:
            if item.type == "function_call":
                output = weather(**json.loads(item.arguments))
                given += [item, {"type": "function_call_output", "call_id": item.call_id, "output": output}]
        return (await client.responses.create(model=MODEL, input=given, tools=[TOOL])).output_text


async def structured() -> Any:
    async with AsyncOpenAI() as client:
        return json.loads((await client.responses.create(model=MODEL, input=SAY, text=FORM)).output_text)


run(
    plain=lambda: asyncio.run(plain()), streamed=lambda: asyncio.run(streamed()), tools=lambda: asyncio.run(tools()),
    structured=lambda: asyncio.run(structured()), error=lambda: error_of(lambda: asyncio.run(plain(NO_MODEL))),
    cut=lambda: twice(lambda: asyncio.run(plain())), lost=lambda: twice(lambda: asyncio.run(plain())),
)  # fmt: skip
