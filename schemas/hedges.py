"""Hedging: a second attempt beside one that runs for unusually long. The values that facts carry about it.

Rules: docs/hedging.md.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field

from schemas.base import Frozen, Int64, SpanMs, UnixMs

HedgeMode = Literal["asked", "all", "never"]
"""Which jobs may be hedged: those that ask for it, all that can be, or none."""

HARMLESS_TOOLS: Final = frozenset({"function", "custom", "web_search", "web_search_preview", "file_search"})
"""Tools that may run twice without an effect on the world. A function is run by the caller, from one result."""


class HedgeTerms(Frozen):
    """The response may be hedged."""

    model: str
    at_ms: UnixMs | None = None
    """When to ask for the permission; None while too little is known of the model's run times."""


class HedgePermit(Frozen):
    """The permission for a hedge, and what it was decided from."""

    age_ms: SpanMs
    """How long the response has run."""
    after_ms: SpanMs
    """The age from which on a response of this model may be hedged."""
    share: float = Field(gt=0, lt=1)
    """The share of responses that reach that age, by the setting: the budget."""
    ended: Int64 = Field(ge=0)
    """Ended responses from which `after_ms` was estimated."""


def unhedgeable(request: Mapping[str, Any]) -> str | None:
    """Why a second attempt of this request would do harm even where it is asked for; None if it would not."""
    if request.get("conversation") is not None:
        return "both attempts would write to its conversation"
    if request.get("stream"):
        return "its output is shown while it runs, and two attempts write two texts"
    options = request.get("background_options")
    if isinstance(options, dict) and options.get("completion_window") is not None:
        return "it has a completion window, so it is not urgent"
    return None


def acts(request: Mapping[str, Any]) -> bool:
    """Whether the request has a tool that may change something outside of the response, such as an MCP server."""
    tools = request.get("tools")
    if not isinstance(tools, list):
        return False
    return any(not isinstance(tool, dict) or tool.get("type") not in HARMLESS_TOOLS for tool in tools)
