"""The input of a response as a list of items, in pages. Pure: an item's id is derived from its position.

There may be thousands of items, so only those of a page are built.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import orjson

LIMIT_MAX = 100
LIMIT = 20

Order = Literal["asc", "desc"]
Missing = Literal["input", "after"]
"""The input is not stored (any more); `after` is not the id of an item."""


@dataclass(frozen=True, slots=True)
class PageOf:
    """The requested page."""

    limit: int = LIMIT
    order: Order = "desc"
    after: str | None = None


def page_of(submission: bytes | memoryview, response_id: str, wanted: PageOf) -> bytes | Missing:
    try:
        value = orjson.loads(submission)
    except orjson.JSONDecodeError:
        return "input"
    request = value.get("request") if isinstance(value, dict) else None
    if not isinstance(request, dict):
        return "input"
    found = _page(response_id, request.get("input"), wanted)
    return "after" if found is None else orjson.dumps(found)


def _page(response_id: str, given: Any, wanted: PageOf) -> dict[str, Any] | None:
    """The page as OpenAI's list object; None if `after` is not the id of an item."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    listed = given if isinstance(given, list) else []
    items = [(place, item) for place, item in enumerate(listed) if isinstance(item, dict)]
    if wanted.order == "desc":
        items.reverse()
    if wanted.after:
        found = (at for at, (place, item) in enumerate(items) if _id(response_id, place, item) == wanted.after)
        begin = next(found, None)
        if begin is None:
            return None
        items = items[begin + 1 :]
    data = [_item(response_id, place, item) for place, item in items[: wanted.limit]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(items) > len(data),
    }


def _is_message(item: dict[str, Any]) -> bool:
    return item.get("type", "message") == "message" and "role" in item


def _id(response_id: str, place: int, given: dict[str, Any]) -> Any:
    if "id" in given:
        return given["id"]
    digest = hashlib.sha256(f"{response_id}\n{place}".encode()).hexdigest()[:48]
    return f"{'msg' if _is_message(given) else 'item'}_{digest}"


def _item(response_id: str, place: int, given: dict[str, Any]) -> dict[str, Any]:
    item = {"id": _id(response_id, place, given), "status": "completed", **given}
    if not _is_message(given):
        return item
    content = given.get("content")
    if isinstance(content, str):
        text = "output_text" if given["role"] == "assistant" else "input_text"
        part: dict[str, Any] = {"type": text, "text": content}
        content = [part | {"annotations": []} if text == "output_text" else part]
    return {**item, "type": "message", "content": content}
