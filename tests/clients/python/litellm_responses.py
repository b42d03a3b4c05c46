"""LiteLLM as a library, its Responses API."""

import json
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network for prices at import

import litellm
from features import ASK, FORM, MODEL, NO_MODEL, SAY, TOOL, error_of, run, twice, weather

litellm.suppress_debug_info = True  # else it prints advice to stdout


def create(model: str = MODEL, **asked: Any) -> Any:
    return litellm.responses(model=f"openai/{model}", **{"input": SAY, **asked})


def plain(model: str = MODEL) -> Any:
    return create(model).output_text


def streamed() -> Any:
    return [event.delta for event in create(stream=True) if event.type == "response.output_text.delta"]


def tools() -> Any:
    given: list[Any] = [{"role": "user", "content": ASK}]
    for item in create(input=given, tools=[TOOL]).output:
        if item.type == "function_call":
            output = weather(**json.loads(item.arguments))
            call = {"type": "function_call", "call_id": item.call_id, "name": item.name, "arguments": item.arguments}
            given += [call, {"type": "function_call_output", "call_id": item.call_id, "output": output}]
    return create(input=given, tools=[TOOL]).output_text


run(
    plain=plain, streamed=streamed, tools=tools, structured=lambda: json.loads(create(text=FORM).output_text),
    error=lambda: error_of(lambda: plain(NO_MODEL)), cut=lambda: twice(plain), lost=lambda: twice(plain),
)  # fmt: skip
