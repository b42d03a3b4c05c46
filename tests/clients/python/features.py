"""Shared by all scripts here: `python SCRIPT FEATURE` does one thing with one client and prints the answer as JSON."""

import json
import sys
from collections.abc import Callable
from typing import Any

MODEL = "gpt-5.2"
NO_MODEL = "no-such-model"
SAY = "Say hello."
ASK = "How is the weather?"


def weather(city: str, days: int) -> str:
    """The weather of a city for some days."""
    return f"sunny in {city} for {days}"


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function", "name": "weather", "description": "The weather.", "parameters": SCHEMA, "strict": True,
}  # fmt: skip
FORM: dict[str, Any] = {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}}


def run(**features: Callable[[], Any]) -> None:
    sys.stdout.write(json.dumps(features[sys.argv[1]]()))


def error_of(call: Callable[[], Any]) -> dict[str, Any]:
    """What a client raised, as its users see it."""
    try:
        call()
    except Exception as error:
        causes = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(cause)
        statuses = [getattr(cause, "status_code", None) for cause in causes]
        return {"raised": type(error).__name__, "status": next((status for status in statuses if status), None)}
    return {"raised": None}


def twice(call: Callable[[], Any]) -> dict[str, Any]:
    """As a user that asks once more where the client gave up."""
    try:
        return {"asked": 1, "text": call()}
    except Exception:
        return {"asked": 2, "text": call()}
