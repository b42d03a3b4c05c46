"""langchain-openai over the Responses API."""

from typing import Any

import features
from features import ASK, MODEL, NO_MODEL, SAY, error_of, run, twice
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Place(BaseModel):
    city: str
    days: int


def chat(model: str = MODEL) -> ChatOpenAI:
    return ChatOpenAI(model=model, use_responses_api=True)


def plain(model: str = MODEL) -> Any:
    return chat(model).invoke(SAY).text


def streamed() -> Any:
    return [chunk.text for chunk in chat().stream(SAY) if chunk.text]


def tools() -> Any:
    weather = tool(features.weather)
    bound = chat().bind_tools([weather])
    messages: list[Any] = [HumanMessage(ASK)]
    answer = bound.invoke(messages)
    messages.append(answer)
    messages += [weather.invoke(call) for call in answer.tool_calls]
    return bound.invoke(messages).text


def structured() -> Any:
    return chat().with_structured_output(Place).invoke(SAY).model_dump()


run(
    plain=plain, streamed=streamed, tools=tools, structured=structured, error=lambda: error_of(lambda: plain(NO_MODEL)),
    cut=lambda: twice(plain), lost=lambda: twice(plain),
)  # fmt: skip
