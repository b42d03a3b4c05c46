"""pydantic-ai: an agent over the Responses API."""

import asyncio
from typing import Any

import features
from features import ASK, MODEL, NO_MODEL, SAY, error_of, run, twice
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel


class Place(BaseModel):
    city: str
    days: int


def agent(model: str = MODEL, **options: Any) -> Any:
    return Agent(OpenAIResponsesModel(model), **options)


def plain(model: str = MODEL) -> Any:
    return agent(model).run_sync(SAY).output


async def stream() -> list[str]:
    async with agent().run_stream(SAY) as result:
        return [text async for text in result.stream_text(delta=True, debounce_by=None)]


def tools() -> Any:
    return agent(tools=[features.weather]).run_sync(ASK).output


def structured() -> Any:
    return agent(output_type=Place).run_sync(SAY).output.model_dump()


run(
    plain=plain, streamed=lambda: asyncio.run(stream()), tools=tools, structured=structured,
    error=lambda: error_of(lambda: plain(NO_MODEL)), cut=lambda: twice(plain), lost=lambda: twice(plain),
)  # fmt: skip
