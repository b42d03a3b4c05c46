"""The simulated model's use of tools and output schemas, for testing a caller's round trips. Deterministic.

- The model calls each offered function that the input does not call yet, in the order of the tools, with arguments that
  fit its schema. `tool_choice` `none` calls none, a named one calls that one.
- After a function's output the answer repeats that output. Where the input has the output and not its call (a caller
  that sends `previous_response_id` or `conversation`), the model calls no further function.
- For a JSON schema the answer is a value that fits it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from backstop.simulator.records import CreateRequest, Stored

_REFS_MAX: Final = 20
_VALUES: Final[dict[str, Any]] = {"integer": 1, "number": 1.5, "boolean": True, "null": None, "string": "Paris"}


def called(request: CreateRequest) -> tuple[str, str] | None:
    """Name and arguments of the function that the model calls; None where it answers."""
    given, choice = request.body.get("input"), request.body.get("tool_choice")
    tools = [tool for tool in request.body.get("tools") or () if _is_function(tool)]
    if choice == "none" or not tools or given is None:
        return None
    items = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
    calls = [item for item in items if item.get("type") == "function_call"]
    outputs = {str(item.get("call_id")) for item in items if item.get("type") == "function_call_output"}
    if outputs - {str(call.get("call_id")) for call in calls}:
        return None
    done = {call.get("name") for call in calls}
    named = choice.get("name") if isinstance(choice, dict) else None
    for tool in tools:
        if tool["name"] == named or (named is None and tool["name"] not in done):
            schema = tool.get("parameters") or {}
            return tool["name"], orjson.dumps(example(schema, schema)).decode()
    return None


def said(request: CreateRequest, echo: str) -> str:
    """The model's text where it calls no function."""
    wanted = (request.body.get("text") or {}).get("format") or {}
    if isinstance(wanted.get("schema"), dict):
        return orjson.dumps(example(wanted["schema"], wanted["schema"])).decode()
    if wanted.get("type") in ("json_object", "json_schema"):
        return orjson.dumps({"echo": echo}).decode()
    said = _tools_said(request)
    return f"The tool said: {said}" if said else f"Echo: {echo}"


def _tools_said(request: CreateRequest) -> str:
    given = request.body.get("input")
    items = given if isinstance(given, list) else []
    outputs = [
        item.get("output") for item in items if isinstance(item, dict) and item.get("type") == "function_call_output"
    ]
    return "; ".join(output if isinstance(output, str) else orjson.dumps(output).decode() for output in outputs)


def call_item(stored: Stored, status: str) -> dict[str, Any] | None:
    """The output item of a call; None where the model answers."""
    found = called(stored.request)
    if found is None:
        return None
    name, arguments = found
    arguments = arguments if status == "completed" else ""
    suffix = stored.message_id.removeprefix("msg_")
    return {
        "id": f"fc_{suffix}", "type": "function_call", "status": status, "call_id": f"call_{suffix}", "name": name,
        "arguments": arguments,
    }  # fmt: skip


def call_begins(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The first event of a call's stream; `item` is whole."""
    begun = {**item, "status": "in_progress", "arguments": ""}
    return [{"type": "response.output_item.added", "output_index": 0, "item": begun}]


def call_deltas(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    place = {"item_id": item["id"], "output_index": 0}
    return [{"type": "response.function_call_arguments.delta", **place, "delta": item["arguments"]}]


def call_ends(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    place = {"item_id": item["id"], "output_index": 0}
    told = {"arguments": item["arguments"], "name": item["name"]}
    return [
        {"type": "response.function_call_arguments.done", **place, **told},
        {"type": "response.output_item.done", "output_index": 0, "item": dict(item)},
    ]


def example(schema: Any, root: Mapping[str, Any], refs: int = 0) -> Any:
    """A value that fits `schema`, for the schemas that structured output allows."""
    if not isinstance(schema, dict) or refs > _REFS_MAX:
        return None
    if "$ref" in schema:
        return example(_named(root, schema["$ref"]), root, refs + 1)
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return example(schema[name][0], root, refs + 1)
    if schema.get("type") == "array":
        return [example(schema.get("items", {}), root, refs + 1) for _ in range(max(1, schema.get("minItems", 1)))]
    if schema.get("type") == "object" or "properties" in schema:
        return {name: example(each, root, refs + 1) for name, each in (schema.get("properties") or {}).items()}
    return _plain(schema)


def _plain(schema: Mapping[str, Any]) -> Any:
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    value = _VALUES.get(str(kind))
    return max(value, schema.get("minimum", value)) if kind in {"integer", "number"} else value


def _named(root: Mapping[str, Any], ref: Any) -> Any:
    found: Any = root
    for part in str(ref).removeprefix("#").strip("/").split("/"):
        found = found.get(part, {}) if part and isinstance(found, dict) else found
    return found


def _is_function(tool: Any) -> bool:
    return isinstance(tool, dict) and tool.get("type") == "function" and isinstance(tool.get("name"), str)
