"""Splits a large JSON object: `python -m streams.large_split IN OUT [MEMBER]` (`streams.large_requests`).

It imports little, as each such process pays for its imports.
"""

import sys
from collections.abc import Mapping
from typing import Any, Final

import orjson

from backstop.runtime.process.apart_files import left, taken_to_empty
from schemas.long_json import load
from schemas.long_texts import whole, written

SMALL_BYTES_MAX: Final = 256 << 10
"""A member up to this size is a small one."""

SMALL_BYTES_SUM_MAX: Final = 1 << 20
"""Of all small members: the smallest ones."""

ALWAYS: Final = frozenset(("background", "metadata", "store", "stream"))
"""Set or changed by a create, which may not send them twice. A request has been checked: they are small."""

NO_OBJECT: Final = 3
"""The exit code where the request is not a JSON object."""


def split(data: bytes | bytearray, member: str | None = None) -> tuple[bytes, list[bytes]] | None:
    """The small members and the names of the others, as JSON; and the pieces of the object of the others, none if there
    are none: as one text they would be in memory twice. A `bytearray` is emptied.
    """
    value = load(data)
    if member is not None and isinstance(value, dict):
        value = value.get(member)
    if not isinstance(value, dict):
        return None
    texts = {name: written(each) for name, each in value.items()}
    small: dict[str, Any] = {}
    for name in small_names({name: len(text) for name, text in texts.items()}):
        small[name] = whole(value[name])
        del texts[name]
    del value
    names = sorted(texts)
    pieces: list[bytes] = []
    for name in names:
        pieces += (b"," if pieces else b"{", orjson.dumps(name), b":", texts[name])
    return orjson.dumps((small, names)), [*pieces, b"}"] if pieces else []


def small_names(sizes: Mapping[str, int]) -> list[str]:
    """The names of the small members of an object, by the sizes of all in bytes."""
    small: list[str] = []
    left_bytes = SMALL_BYTES_SUM_MAX
    for name in sorted(sizes, key=lambda name: (name not in ALWAYS, sizes[name])):
        if name not in ALWAYS and sizes[name] > min(SMALL_BYTES_MAX, left_bytes):
            break
        left_bytes -= sizes[name]
        small.append(name)
    return small


def main(given: int, written: int, member: str | None = None) -> int:
    found = split(taken_to_empty(given), member)
    if found is None:
        return NO_OBJECT
    left(written, *found)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
