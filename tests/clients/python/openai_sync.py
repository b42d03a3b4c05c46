"""The official Python SDK, synchronous."""

import json
from typing import Any

from features import ASK, FORM, MODEL, NO_MODEL, SAY, TOOL, error_of, run, twice, weather
from openai import OpenAI

client = OpenAI()


def plain() -> Any:
    return client.responses.create(model=MODEL, input=SAY).output_text


def streamed() -> Any:
    events = client.responses.create(model=MODEL, input=SAY, stream=True)
    return [event.delta for event in events if event.type == "response.output_text.delta"]


def tools() -> Any:
    given: list[Any] = [{"role": "user", "content": ASK}]
    response = client.responses.create(model=MODEL, input=given, tools=[TOOL])
    for item in response.output:
        if item.type == "function_call":
            output = weather(**json.loads(item.arguments))
            given += [item, {"type": "function_call_output", "call_id": item.call_id, "output": output}]
    return client.responses.create(model=MODEL, input=given, tools=[TOOL]).output_text


def structured() -> Any:
    return json.loads(client.responses.create(model=MODEL, input=SAY, text=FORM).output_text)


run(
    plain=plain, streamed=streamed, tools=tools, structured=structured,
    error=lambda: error_of(lambda: client.responses.create(model=NO_MODEL, input=SAY)),
    cut=lambda: twice(plain), lost=lambda: twice(plain),
)  # fmt: skip
