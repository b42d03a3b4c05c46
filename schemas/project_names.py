"""What a request names of the project at the provider, which all tenants share: a foreign name would read a foreign conversation. Pure.

Rules, before the code:
- A field named `…_id` or `…_ids` names something, but for those that only tell parts of one request apart (`call_id`). So does `id`, and so do the
  fields whose value is an id without saying so (`conversation`, `container`). A field that the provider adds tomorrow is therefore refused, not passed.
- A text that has the form of the provider's ids names something, wherever it stands but in free text.
- An item of the input names a stored one where it does not hold the content itself: `item_reference`, reasoning without `encrypted_content`, an
  image without its `result`. The id of an item that is sent whole names nothing.
- What users write (texts, metadata, schemas, arguments) is no name, whatever it looks like.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

PREVIOUS: Final = "previous_response_id"

_LOCAL_IDS: Final = frozenset({"call_id", "approval_request_id", "connector_id"})
"""Made by the model or the caller for one request, or the provider's own for everybody (connectors bring their own credentials)."""

_NAMES: Final = frozenset({"conversation", "container"})

_FREE: Final = frozenset({
    "annotations", "arguments", "definition", "filters", "format", "headers", "input_schema", "logprobs", "metadata", "parameters",
    "queries", "results", "schema", "sources", "text",
})  # fmt: skip
"""Fields of which nothing is read as a name: users' own, or what an earlier answer quoted."""

_TEXTS: Final = frozenset({
    "authorization", "content", "data", "description", "encrypted_content", "file_data", "file_url", "filename", "image_url", "input",
    "instructions", "name", "output", "prompt_cache_key", "result", "safety_identifier", "server_label", "server_url", "title",
    "url", "user", *_LOCAL_IDS,
})  # fmt: skip
"""Fields whose text is free, and whose objects are looked into."""

_HELD_IN: Final[Mapping[str, str]] = {
    "reasoning": "encrypted_content",
    "compaction": "encrypted_content",
    "image_generation_call": "result",
}
"""Where an item of this type holds its content; without it the provider takes the stored one."""

_SAYS_NOTHING: Final = frozenset({"id", "type", "status", "role"})

_PROVIDERS_ID: Final = re.compile(
    r"(?:asst|batch|cfile|cntr|conv|file|ftjob|item|msg|part|pmpt|resp|rs|skill|thread|upload|vs|vsfb?)[-_][A-Za-z0-9]{12,}"
)
_TUNED: Final = "ft:"
"""How the name of a fine-tuned model begins."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """`pointer` into the request, as in `#/input/0/id`; `kind` is the name of the field."""

    pointer: str
    kind: str
    id: str
    """Empty where it is no text."""


def named_in(request: Mapping[str, Any]) -> Iterator[Named]:
    """All that `request`, the body of a create, names of the project."""
    left: list[tuple[Path, Any]] = [((), request)]
    while left:  # no recursion: the value is not to be trusted
        path, value = left.pop()
        names = _in_object(path, value) if isinstance(value, dict) else _in_list(path, value)
        for name, child in names:
            if isinstance(child, dict | list):
                left.append((name, child))
            else:
                yield Named(_pointer(name), _kind(name), child if isinstance(child, str) else "")


def first_foreign(named: Iterable[Named], shared: Sequence[str]) -> Named | None:
    """The first that is not among `shared`: ids, or beginnings of ids that end in `*`."""
    return next((one for one in named if not any(_covers(pattern, one.id) for pattern in shared)), None)


def _covers(pattern: str, named: str) -> bool:
    return named.startswith(pattern[:-1]) if pattern.endswith("*") else named == pattern


def _in_object(path: Path, value: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    """The names in one object, and the objects and lists in it that are to be looked into."""
    is_item = len(path) >= 2 and path[-2] == "input" and isinstance(path[-1], int)
    if is_item and _is_reference(value):
        yield (*path, "id"), value["id"]
    for key, child in value.items():
        if key in _FREE or child is None or (key == "id" and is_item):
            continue
        if path and path[-1] == "variables":  # of a prompt, under names that users choose
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
    if key in _NAMES or key == "id" or (key.endswith(("_id", "_ids")) and key not in _LOCAL_IDS):
        return True
    if not isinstance(value, str) or key in _TEXTS:
        return False
    return value.startswith(_TUNED) if key == "model" else _PROVIDERS_ID.fullmatch(value) is not None


def _is_reference(item: dict[str, Any]) -> bool:
    if item.get("id") is None:
        return False
    held_in = _HELD_IN.get(str(item.get("type")))
    return (
        not item.get(held_in) if held_in is not None else {k for k, v in item.items() if v is not None} <= _SAYS_NOTHING
    )


def _kind(path: Path) -> str:
    names = [part for part in path if isinstance(part, str)]
    return names[-2] if names[-1] == "id" and len(names) > 1 else names[-1]


def _pointer(path: Path) -> str:
    return "#" + "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')[:64]}" for part in path[:12])
