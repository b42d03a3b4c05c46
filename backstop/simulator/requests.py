"""Parses the body of a create as OpenAI does, with the same refusals in the same shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import orjson

from backstop.simulator.answers import HttpAnswer, bad_request, error
from backstop.simulator.catalogue import parse_directives
from backstop.simulator.config import Profile
from backstop.simulator.errors import ConfigError
from backstop.simulator.ids import ANY_ID_FORMS, AnyIdForm
from backstop.simulator.objects import ECHO_CHARS_MAX
from backstop.simulator.records import CreateRequest

# The parameters of create in SDK 3.54.0.
PARAMETERS: Final = frozenset(
    (
        *("background", "background_options", "context_management", "conversation", "frequency_penalty", "include"),
        *("input", "instructions", "max_output_tokens", "max_tool_calls", "metadata", "model", "moderation"),
        *("parallel_tool_calls", "presence_penalty", "previous_response_id", "prompt", "prompt_cache_key"),
        *("prompt_cache_options", "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier"),
        *("store", "stream", "stream_options", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p"),
        *("truncation", "user"),
    )
)
TIERS: Final = frozenset({"auto", "default", "flex", "scale", "priority", "fast", "ultrafast"})
COMPLETION_WINDOWS: Final = ("soonest", "2h", "8h")
STANDARD_TIERS: Final = (None, "auto", "default")
NO_MODEL: Final = "no-such-"
"""Every model name exists, except names with this prefix."""

INPUT_KEPT_BYTES_MAX: Final = 8192
METADATA_PAIRS_MAX: Final = 16
METADATA_KEY_CHARS_MAX: Final = 64
METADATA_VALUE_CHARS_MAX: Final = 512
_SHORT_METADATA: Final = ("sim_queue_s", "sim_run_s", "sim_output_bytes")


def read_create(body: bytes, headers: Mapping[str, str], project: int, profile: Profile) -> CreateRequest | HttpAnswer:
    """The checked request, or the 400 that says what is wrong with it."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError:
        raw = None
    if not isinstance(raw, dict):
        return bad_request("We could not parse the JSON body of your request.")
    refusal = _refusal(raw, profile)
    if refusal is not None:
        return refusal
    metadata = raw.get("metadata") or {}
    try:
        directives = parse_directives(metadata["sim_fault"]) if "sim_fault" in metadata else ()
        queue_s, run_s, output_bytes = (_number(metadata, name) for name in _SHORT_METADATA)
        id_form = _id_form(metadata, profile)
    except ConfigError as error:
        return bad_request(f"The simulator cannot follow this: {error}", param="metadata")
    text = _text_of(raw.get("input"))
    options = raw.get("background_options") or {}
    is_small = len(body) <= INPUT_KEPT_BYTES_MAX
    kept = raw if is_small else {key: value for key, value in raw.items() if key != "input"}
    retry_count = headers.get("x-stainless-retry-count", "")
    return CreateRequest(
        model=raw["model"],
        body=kept,
        kept_bytes=len(body) if kept is raw else len(orjson.dumps(kept)) + ECHO_CHARS_MAX,
        input_text=text[:ECHO_CHARS_MAX],
        # About four characters per token: the provider's rule of thumb.
        input_tokens=max(len(text) // 4, 1),
        background=raw.get("background") is True,
        store=raw.get("store") is not False,
        stream=raw.get("stream") is True,
        metadata=metadata,
        directives=directives,
        queue_s=queue_s,
        run_s=run_s,
        output_bytes=profile.output_bytes if output_bytes is None else int(output_bytes),
        project=project,
        retry_count=int(retry_count) if retry_count.isdecimal() else None,
        idempotency_key=headers.get("idempotency-key"),
        id_form=id_form,
        window=options.get("completion_window"),
        continuation=options.get("continuation_id"),
    )


def _refusal(raw: dict[str, Any], profile: Profile) -> HttpAnswer | None:
    for name in raw:
        if name not in PARAMETERS:
            return bad_request(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
    model = raw.get("model")
    if model is None or model == "":
        return bad_request("Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
    for name, (kinds, wanted) in _TYPES.items():
        if raw.get(name) is not None and not isinstance(raw[name], kinds):
            return _invalid_type(name, wanted)
    if not isinstance((raw.get("text") or {}).get("format") or {}, dict):
        return _invalid_type("text.format", "an object")
    tier = raw.get("service_tier")
    if tier is not None and tier not in TIERS:
        return bad_request("Invalid service_tier argument", param="service_tier", code="invalid_value")
    return _bad_metadata(raw.get("metadata")) or _bad_mode(raw, profile)


_TYPES: Final[dict[str, tuple[type | tuple[type, ...], str]]] = {
    "model": (str, "a string"),
    "input": ((str, list), "a string or an array"),
    "background": (bool, "a boolean"),
    "store": (bool, "a boolean"),
    "stream": (bool, "a boolean"),
    "reasoning": (dict, "an object"),
    "text": (dict, "an object"),
    "background_options": (dict, "an object"),
    "metadata": (dict, "an object"),
    "max_output_tokens": (int, "an integer"),
    "service_tier": (str, "a string"),
}


def _bad_mode(raw: dict[str, Any], profile: Profile) -> HttpAnswer | None:
    background = raw.get("background") is True
    if raw["model"].startswith(NO_MODEL):
        text = "The model does not exist or you do not have access to it."
        return error(404, text, param="model", code="model_not_found")
    if background and raw.get("store") is False and profile.store_false == "reject":
        return bad_request("Background mode requires 'store' to be true.", param="store", code="invalid_value")
    refusal = _bad_background(raw, profile)
    if refusal is not None:
        return refusal
    if not background and raw.get("tools"):
        return bad_request("The simulator answers tools in background mode only.", param="tools")
    return None


def _bad_background(raw: dict[str, Any], profile: Profile) -> HttpAnswer | None:
    options = raw.get("background_options") or {}
    if raw.get("background") is not True:
        text = "'background_options' requires 'background' to be true."
        return bad_request(text, param="background_options") if options else None
    if raw.get("stream") is True and profile.background_stream == "refused":
        return bad_request("Streaming is not supported in background mode.", param="stream")
    for name, value in options.items():
        path = f"background_options.{name}"
        if name not in ("completion_window", "continuation_id"):
            return bad_request(f"Unknown parameter: '{path}'.", param=path, code="unknown_parameter")
        if value is not None and not isinstance(value, str):
            return _invalid_type(path, "a string")
    return _bad_window(options.get("completion_window") or "soonest", raw)


def _bad_window(window: str, raw: dict[str, Any]) -> HttpAnswer | None:
    where = "background_options.completion_window"
    if window not in COMPLETION_WINDOWS:
        text = f"Invalid value: '{window:.64}'. Supported values are: 'soonest', '2h', and '8h'."
        return bad_request(text, param=where, code="invalid_value")
    if window != "soonest" and (raw.get("stream") is True or raw.get("service_tier") not in STANDARD_TIERS):
        text = f"The completion window '{window}' requires Standard processing without a stream."
        return bad_request(text, param=where, code="invalid_value")
    return None


def _bad_metadata(metadata: Any) -> HttpAnswer | None:
    if metadata is None:
        return None
    if len(metadata) > METADATA_PAIRS_MAX:
        text = f"Invalid 'metadata': too many properties. Expected an object with at most {METADATA_PAIRS_MAX}."
        return bad_request(text, param="metadata", code="object_above_max_properties")
    for key, value in metadata.items():
        if not isinstance(value, str):
            return _invalid_type(f"metadata.{key}", "a string")
        if len(key) > METADATA_KEY_CHARS_MAX or len(value) > METADATA_VALUE_CHARS_MAX:
            text = f"Invalid 'metadata.{key[:METADATA_KEY_CHARS_MAX]}': string too long."
            return bad_request(text, param="metadata", code="string_above_max_length")
    return None


def _invalid_type(name: str, wanted: str) -> HttpAnswer:
    text = f"Invalid type for '{name}': expected {wanted}."
    return bad_request(text, param=name, code="invalid_type")


def _number(metadata: Mapping[str, str], name: str) -> float | None:
    text = metadata.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < (64 << 20):
        raise ConfigError(f"{name} must be a number >= 0, not {text!r}")
    return value


def _id_form(metadata: Mapping[str, str], profile: Profile) -> AnyIdForm:
    wanted = metadata.get("sim_id", profile.ids)
    found: AnyIdForm | None = next((each for each in ANY_ID_FORMS if each == wanted), None)
    if found is None:
        raise ConfigError(f"sim_id must be one of {', '.join(ANY_ID_FORMS)}, not {wanted!r}")
    return found


def _text_of(given: Any) -> str:
    """All text of an input, a line for each part."""
    if isinstance(given, str):
        return given
    lines = []
    for item in given or ():
        content = item.get("content") if isinstance(item, dict) else item
        for part in content if isinstance(content, list) else (content,):
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(text, str):
                lines.append(text)
    return "\n".join(lines)
