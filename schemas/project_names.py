"""Finds the provider's objects that a request refers to. Pure.

All tenants share one project at the provider, so a foreign id in a request could read a foreign conversation.

Rules, before the code:
- A field named `…_id`, `…_ids` or `…Id` is a reference, except fields that only distinguish parts of one request
  (`call_id`).
  `id` is a reference, too, and so are fields whose value is an id (`conversation`, `container`). A new field of the
  provider is therefore refused, not passed.
- A string in the form of the provider's ids is a reference anywhere outside of free text.
- An item of the input refers to a stored item if it lacks its content: `item_reference`, reasoning without
  `encrypted_content`, an image without its `result`. The id of an item that is sent in full is no reference.
- Text that users write (messages, metadata, schemas, arguments) is no reference, whatever it looks like.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from schemas.long_texts import LongText

PREVIOUS: Final = "previous_response_id"

_LOCAL_IDS: Final = frozenset({"call_id", "approval_request_id"})
"""Ids made by the model or the client for one request."""

_PUBLIC: Final = re.compile(r"connector_[a-z]+")
"""Connectors that all projects have. They bring their own credentials."""

_ID_FIELD: Final = re.compile(r"id|ids|.*(?:_ids?|[a-z]Ids?)")

_NAMES: Final = frozenset({"conversation", "container"})

_FREE: Final = frozenset({
    "annotations", "arguments", "definition", "filters", "format", "headers", "input_schema", "logprobs",
    "metadata", "parameters", "queries", "results", "schema", "sources", "text",
})  # fmt: skip
"""Fields whose content is never a reference: written by users, or quoted from an earlier answer."""

_TEXTS: Final = frozenset({
    "authorization", "content", "data", "description", "encrypted_content", "filename", "input", "instructions", "name",
    "output", "prompt_cache_key", "result", "safety_identifier", "server_label", "title", "url", "user", *_LOCAL_IDS,
})  # fmt: skip
"""Fields whose strings are free text. Objects and lists in them are searched."""

_HELD_IN: Final[Mapping[str, str]] = {
    "reasoning": "encrypted_content",
    "compaction": "encrypted_content",
    "compaction_summary": "encrypted_content",
    "image_generation_call": "result",
}
"""The field that holds the content of an item of this type. Without it the provider uses the stored item."""

_SAYS_NOTHING: Final = frozenset({"id", "type", "status", "role"})

_PROVIDERS_ID: Final = re.compile(
    r"(?:(?:sediment|file-service)://)?"  # as the provider's own products point to a file in the place of a URL
    r"(?:asst|batch|cfile|cntr|conv|file|ftjob|item|msg|part|pmpt|resp|rs|skill|thread|upload|vs|vsfb?)"
    r"[-_][A-Za-z0-9]{12,}"
)
_ID_REST: Final = re.compile("[A-Za-z0-9]+")
_PUBLIC_REST: Final = re.compile("[a-z]+")
_TUNED: Final = re.compile(r"ft:|[^:]*:ft-", re.IGNORECASE)
"""How the names of fine-tuned models begin, now and in former times."""

_PROMPT_VARIABLES: Final = ("prompt", "variables")

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """A reference. `pointer` into the request, as in `#/input/0/id`; `kind` is the name of the field."""

    pointer: str
    kind: str
    id: str
    """Empty if the value is not a string."""


def named_in(request: Mapping[str, Any]) -> Iterator[Named]:
    """All references in `request`, the body of a create."""
    left: list[tuple[Path, Any]] = [((), request)]
    while left:  # Iterative: recursion over an untrusted value could exhaust the stack.
        path, value = left.pop()
        names = _in_object(path, value) if isinstance(value, dict) else _in_list(path, value)
        for name, child in names:
            if isinstance(child, dict | list):
                left.append((name, child))
            else:
                yield Named(_pointer(name), _kind(name), child if isinstance(child, str) else "")


def first_foreign(named: Iterable[Named], shared: Sequence[str]) -> Named | None:
    """The first reference that is not in `shared`, or None. An entry of `shared` is an id, or a prefix and `*`."""
    return next((one for one in named if not any(_covers(pattern, one.id) for pattern in shared)), None)


def _covers(pattern: str, named: str) -> bool:
    if isinstance(named, LongText):
        begun = named.utf8.startswith(pattern.removesuffix("*").encode())
        return begun and (pattern.endswith("*") or len(pattern) == len(named))
    return named.startswith(pattern[:-1]) if pattern.endswith("*") else named == pattern


def _in_object(path: Path, value: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    """The references in one object, and its objects and lists that remain to be searched."""
    is_item = len(path) >= 2 and path[-2] == "input" and isinstance(path[-1], int)
    if is_item and _is_reference(value):
        yield (*path, "id"), value["id"]
    for key, child in value.items():
        if key in _FREE or child is None or (key == "id" and is_item):
            continue
        if path == _PROMPT_VARIABLES:  # Users choose these field names.
            if isinstance(child, dict | list):
                yield (*path, "value"), child
        elif isinstance(child, dict | list) or _is_name(key, child):
            yield (*path, key), child


def _in_list(path: Path, values: list[Any]) -> Iterator[tuple[Path, Any]]:
    key = path[-1] if path else ""
    for place, child in enumerate(values):
        if isinstance(child, dict | list) or _is_name(str(key), child):
            yield (*path, place), child


def _is_name(key: str, value: Any) -> bool:
    if key == "connector_id" and isinstance(value, str) and _fits(_PUBLIC, _PUBLIC_REST, value):
        return False
    if key in _NAMES or (_ID_FIELD.fullmatch(key) and key not in _LOCAL_IDS):
        return True
    if not isinstance(value, str) or key in _TEXTS:
        return False
    return _is_tuned(value) if key == "model" else _fits(_PROVIDERS_ID, _ID_REST, value)


def _fits(pattern: re.Pattern[str], rest: re.Pattern[str], value: str) -> bool:
    """Whether all of `value` fits `pattern`, of which `rest` is what a long text goes on with."""
    if not isinstance(value, LongText):
        return pattern.fullmatch(value) is not None
    return pattern.fullmatch(value.beginning) is not None and all(map(rest.fullmatch, value.after_beginning()))


def _is_tuned(model: str) -> bool:
    if not isinstance(model, LongText):
        return _TUNED.match(model) is not None
    colon = max(0, model.utf8.find(b":"))
    return _TUNED.match(model.beginning) is not None or model.utf8[colon : colon + 4].lower() == b":ft-"


def _is_reference(item: dict[str, Any]) -> bool:
    if item.get("id") is None:
        return False
    kind = item.get("type")
    if kind == "item_reference" or {name for name, value in item.items() if value is not None} <= _SAYS_NOTHING:
        return True
    held_in = _HELD_IN.get(str(kind))
    if held_in is not None:
        held = item.get(held_in)
        if isinstance(held, LongText):
            return not any(piece.strip() for piece in held.pieces())
        return not isinstance(held, str) or not held.strip()
    return kind in (None, "message") and not item.get("content")


def _kind(path: Path) -> str:
    names = [part for part in path if isinstance(part, str)]
    return names[-2] if names[-1] == "id" and len(names) > 1 else names[-1]


def _pointer(path: Path) -> str:
    return "#" + "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')[:64]}" for part in path[:12])
