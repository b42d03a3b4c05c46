"""openai-agents: an agent with its runner."""

import asyncio
from typing import Any

import features
from agents import Agent, Runner, function_tool, set_tracing_disabled
from features import ASK, MODEL, NO_MODEL, SAY, error_of, run, twice
from pydantic import BaseModel

set_tracing_disabled(disabled=True)


class Place(BaseModel):
    city: str
    days: int


def agent(**options: Any) -> Any:
    return Agent(name="Helper", instructions="Be short.", **{"model": MODEL, **options})


def plain(model: str = MODEL) -> Any:
    return Runner.run_sync(agent(model=model), SAY).final_output


async def stream() -> list[str]:
    result = Runner.run_streamed(agent(), SAY)
    return [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]


def tools() -> Any:
    return Runner.run_sync(agent(tools=[function_tool(features.weather)]), ASK).final_output


def structured() -> Any:
    return Runner.run_sync(agent(output_type=Place), SAY).final_output.model_dump()


run(
    plain=plain, streamed=lambda: asyncio.run(stream()), tools=tools, structured=structured,
    error=lambda: error_of(lambda: plain(NO_MODEL)), cut=lambda: twice(plain), lost=lambda: twice(plain),
)  # fmt: skip
