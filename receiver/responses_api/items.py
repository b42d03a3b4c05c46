"""The input of a response as a list of items, in pages. Pure: an item's id is derived from its position."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

LIMIT_MAX = 100
LIMIT = 20


@dataclass(frozen=True, slots=True)
class PageOf:
    """The requested page."""

    limit: int = LIMIT
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


def input_items(response_id: str, given: Any) -> list[dict[str, Any]]:
    """The items in the order of the request."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        return []
    return [_item(response_id, place, item) for place, item in enumerate(given) if isinstance(item, dict)]


def page(items: Sequence[dict[str, Any]], wanted: PageOf) -> dict[str, Any] | None:
    """The page as OpenAI's list object; None if `after` is not the id of an item."""
    ordered = list(items if wanted.order == "asc" else reversed(items))
    if wanted.after is not None:
        places = [place for place, item in enumerate(ordered) if item["id"] == wanted.after]
        if not places:
            return None
        ordered = ordered[places[0] + 1 :]
    data = ordered[: wanted.limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(ordered) > len(data),
    }


def _item(response_id: str, place: int, given: dict[str, Any]) -> dict[str, Any]:
    kind = given.get("type", "message")
    digest = hashlib.sha256(f"{response_id}\n{place}".encode()).hexdigest()[:48]
    if kind != "message" or "role" not in given:
        return {"id": f"item_{digest}", "status": "completed", **given}
    content = given.get("content")
    if isinstance(content, str):
        text = "output_text" if given["role"] == "assistant" else "input_text"
        part: dict[str, Any] = {"type": text, "text": content}
        content = [part | {"annotations": []} if text == "output_text" else part]
    return {"id": f"msg_{digest}", "status": "completed", **given, "type": "message", "content": content}
