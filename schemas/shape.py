"""The number of values and the nesting depth of a JSON text, measured before parsing. Pure.

A parser makes an object of each value. A megabyte of `[]` is half a million objects and takes seconds to parse, where a
megabyte of text takes a millisecond. So untrusted JSON is measured first, by byte scans that make no objects.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Final

PIECE_BYTES: Final = 1 << 20

_BRACKETS: Final = b"[]{}"
_OTHERS: Final = bytes(set(range(256)) - set(_BRACKETS))
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


@dataclass(frozen=True, slots=True)
class ShapeLimits:
    """`values_max` counts strings, numbers, booleans, nulls, lists, objects and field names."""

    values_max: int
    depth_max: int


def beyond(data: bytes | bytearray, limits: ShapeLimits) -> str | None:
    """Which of `limits` the JSON text `data` exceeds, as the end of a sentence; None if it exceeds none.

    The result is arbitrary where `data` is not JSON: the parser that runs next reports that.
    """
    brackets = data.count(b"[") + data.count(b"{")
    marks = brackets + data.count(b",") + data.count(b":")
    if marks < limits.values_max and brackets <= limits.depth_max:
        return None  # Counted as if no mark were inside a string: an upper bound.
    too_many = f"more than {limits.values_max} values"
    outside = _outside_texts(data, limits.values_max)
    if outside is None or sum(map(outside.count, (b"[", b"{", b",", b":"))) >= limits.values_max:
        return too_many
    return f"nested deeper than {limits.depth_max} levels" if _depth(outside) > limits.depth_max else None


def _outside_texts(data: bytes | bytearray, values_max: int) -> bytes | None:
    """The bytes outside of strings; None if there are more strings than `values_max`.

    Works piece by piece, so that it never holds a second copy of `data`.
    """
    outside: list[bytes] = []
    begin, quotes = 0, 0
    while begin < len(data):
        piece = _piece(data, begin)
        begin += len(piece)
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"', 2 * values_max + 1)
        outside += parts[quotes % 2 :: 2]
        quotes += len(parts) - 1
        if quotes > 2 * values_max:
            return None
    return b"".join(outside)


def _piece(data: bytes | bytearray, begin: int) -> bytes:
    """About `PIECE_BYTES` from `begin`. Neither `begin` nor the end of the piece splits an escape sequence."""
    piece = bytes(data[begin : begin + PIECE_BYTES])
    if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
        piece += data[begin + len(piece) : begin + len(piece) + 1]
    return piece


def _depth(outside: bytes) -> int:
    return max(accumulate(map(_STEP.__getitem__, outside.translate(None, _OTHERS))), default=0)
