"""Response objects as OpenAI sends them: complete, with nulls, and with the fields of each status."""

from __future__ import annotations

import secrets
from typing import Any, Final

from backstop.simulator.model import call_item, said
from backstop.simulator.records import CreateRequest, Ending, ObjectForm, Stored, UsageForm
from backstop.simulator.replies import REASONS, CodeMeaning, told

ECHO_CHARS_MAX: Final = 2000
INCOMPLETE_CHARS: Final = 40
_FILLER: Final = "The quick brown fox jumps over the lazy dog. "
# Sent back as they came; with the value used where none came.
_ECHOED: Final[dict[str, Any]] = {
    "instructions": None,
    "previous_response_id": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "temperature": 1.0,
    "top_p": 1.0,
    "top_logprobs": 0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "truncation": "disabled",
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "safety_identifier": None,
    "user": None,
}
# All that some servers send.
_BARE: Final = ("id", "status", "output", "error", "metadata")
_TIER_USED: Final = {"auto": "default", "fast": "priority"}
_IMAGE_POLICY: Final = CodeMeaning(400, None, "Your request was rejected as a result of our safety system.")


def render(stored: Stored, *, status: str | None = None, response_id: str | None = None) -> dict[str, Any]:
    """The object for `stored`. `status` and `response_id` override its true values."""
    body = stored.request.body
    shown = status or stored.status
    ended = stored.ending if shown == stored.status else None
    answer: dict[str, Any] = {
        "id": response_id or stored.id,
        "object": "response",
        "created_at": stored.created_at_s,
        "status": stored.plan.shown.words.get(shown, shown) if status is None else shown,
        "background": stored.request.background,
        "store": stored.request.store,
        "model": stored.request.model,
        "output": [],
        "usage": None,
        "error": None,
        "incomplete_details": None,
        "completed_at": None,
        "reasoning": {"effort": "medium", "summary": None} | (body.get("reasoning") or {}),
        "text": {"format": {"type": "text"}, "verbosity": "medium"} | (body.get("text") or {}),
        "service_tier": tier_used(stored) if ended else body.get("service_tier") or "auto",
        "metadata": stored.request.metadata,
    }
    for name, default in _ECHOED.items():
        given = body.get(name)
        answer[name] = default if given is None else given
    if "background_options" in body:
        answer["background_options"] = body["background_options"]
    if ended is not None:
        _add_ending(answer, stored, ended)
    shown_as = stored.plan.shown
    _disfigure(answer, shown_as, has_ended=ended is not None)
    return {name: answer[name] for name in _BARE if name in answer} if shown_as.bare else answer


def _disfigure(answer: dict[str, Any], shown: ObjectForm, *, has_ended: bool) -> None:
    """Turn OpenAI's object into that of another server."""
    if not shown.metadata:
        answer["metadata"] = None
    if shown.background == "false":
        answer["background"] = False
    if shown.background == "absent":
        del answer["background"]
    if answer["usage"] is not None:
        _disfigure_usage(answer, shown.usage)
    if answer["error"] is not None and shown.error != "whole":
        text = answer["error"]["message"]
        answer["error"] = {"null": None, "text": text, "message": {"message": text}}[shown.error]
    if has_ended and shown.output == "null":
        answer["output"] = None
    if has_ended and shown.output == "absent":
        del answer["output"]


def _disfigure_usage(answer: dict[str, Any], form: UsageForm) -> None:
    match form:
        case "floats":
            answer["usage"] = {k: float(v) if isinstance(v, int) else v for k, v in answer["usage"].items()}
        case "nulls":
            answer["usage"] = dict.fromkeys(answer["usage"])
        case "absent":
            del answer["usage"]
        case "total":
            answer["usage"] = {"total_tokens": answer["usage"]["total_tokens"]}
        case "whole":
            pass


def _add_ending(answer: dict[str, Any], stored: Stored, ending: Ending) -> None:
    match ending.status:
        case "completed":
            answer["completed_at"] = stored.ended_at_ms // 1000
            if not ending.empty:
                answer["output"] = [message(stored, "completed")]
                answer["usage"] = usage(stored)
        case "failed":
            answer["error"] = _error(ending)
            answer["usage"] = usage(stored) if ending.has_usage else None
        case "incomplete":
            answer["incomplete_details"] = {"reason": ending.reason}
            answer["output"] = [message(stored, "incomplete")]
            answer["usage"] = usage(stored)
        case "cancelled" if stored.was_running:
            answer["output"] = [message(stored, "in_progress")]
        case _:
            pass


def _error(ending: Ending) -> dict[str, Any]:
    code = ending.code
    known = REASONS.get(code or "") if code != "server_error" else None
    reason = _IMAGE_POLICY if code == "image_content_policy_violation" else known or _unexplained(ending.wait_s)
    if code is None:
        return {"message": told(reason, None)}
    answer = {"code": reason.told_as or code, "message": told(reason, ending.wait_s)}
    return answer if reason.kind is None else answer | {"type": reason.kind, "param": None}


def _unexplained(wait_s: float | None) -> CodeMeaning:
    again = "" if wait_s is None else " {again}"
    wfr = f"wfr_{secrets.token_hex(8)}"
    return CodeMeaning(
        500, None, f"An error occurred while processing your request. Please include {wfr} if you ask.{again}"
    )


def message(stored: Stored, status: str) -> dict[str, Any]:
    """The one output item: whole for a completed response, half for any other."""
    call = call_item(stored, status)
    if call is not None:
        return call
    text = output_text(stored.request) if status == "completed" else output_text(stored.request)[:INCOMPLETE_CHARS]
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {"id": stored.message_id, "type": "message", "status": status, "role": "assistant", "content": content}


def output_text(request: CreateRequest) -> str:
    """The model's text: an echo of the input, or a text of exactly the requested size. Deterministic."""
    size = request.output_bytes or 0
    if size:
        return (_FILLER * (size // len(_FILLER) + 1))[:size]
    return said(request, request.input_text)


def usage(stored: Stored) -> dict[str, Any]:
    """The tokens of a response that ended, derived from the sizes of input and output."""
    used_in = stored.request.input_tokens
    used_out = max(len(output_text(stored.request)) // 4, 1)
    return {
        "input_tokens": used_in,
        "input_tokens_details": {
            "cached_tokens": stored.cached_tokens,
            "cache_write_tokens": stored.cache_write_tokens,
        },
        "output_tokens": used_out,
        # Half of the output, if the request asks for reasoning.
        "output_tokens_details": {"reasoning_tokens": used_out // 2 if stored.request.body.get("reasoning") else 0},
        "total_tokens": used_in + used_out,
    }


def tier_used(stored: Stored) -> str:
    """The service tier that an ended response names."""
    tier = stored.request.body.get("service_tier") or "auto"
    return _TIER_USED.get(tier, tier)


def total_tokens(stored: Stored) -> int:
    """`usage(stored)["total_tokens"]`, whether or not the object shows it."""
    return stored.request.input_tokens + max(len(output_text(stored.request)) // 4, 1)


def input_items(stored: Stored) -> list[dict[str, Any]]:
    """The input as items, oldest first. Of an input too large to keep, only the first characters."""
    given = stored.request.body.get("input")
    if given is None:
        given = stored.request.input_text
    raw = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return [_item(stored, index, each) for index, each in enumerate(raw)]


def _item(stored: Stored, index: int, raw: Any) -> dict[str, Any]:
    item = dict(raw) if isinstance(raw, dict) else {"role": "user", "content": str(raw)}
    content = item.get("content")
    if isinstance(content, str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        extra: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
        item["content"] = [{"type": kind, "text": content, **extra}]
    item.setdefault("type", "message")
    if item["type"] == "message":
        item.setdefault("status", "completed")
    item.setdefault("id", f"msg_{stored.message_id.removeprefix('msg_')[:28]}{index:04x}")
    return item
