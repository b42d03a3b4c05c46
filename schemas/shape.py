"""The number of values and the nesting depth of a JSON text, measured before parsing. Pure.

A parser makes an object of each value. A megabyte of `[]` is half a million objects and takes seconds to parse, where a
megabyte of text takes a millisecond. So untrusted JSON is measured first, by byte scans that make no objects.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Final

PIECE_BYTES: Final = 1 << 20

_BRACKETS: Final = b"[]{}"
_MARKS: Final = b"[{,:"
"""Each stands before or behind a value of its own."""
_NO_BRACKETS: Final = bytes(set(range(256)) - set(_BRACKETS))
_NO_MARKS: Final = bytes(set(range(256)) - set(_BRACKETS + _MARKS))
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
    counts = {mark: _count(data, mark) for mark in _MARKS}
    brackets = counts[ord("[")] + counts[ord("{")]
    if sum(counts.values()) < limits.values_max and brackets <= limits.depth_max:
        return None  # Counted as if no mark were inside a string: an upper bound.
    too_many = f"more than {limits.values_max} values"
    marks = _marks_outside_texts(data, limits.values_max)
    if marks is None or sum(_count(marks, mark) for mark in _MARKS) >= limits.values_max:
        return too_many
    return f"nested deeper than {limits.depth_max} levels" if _depth(marks) > limits.depth_max else None


def _count(data: bytes | bytearray, byte: int) -> int:
    """How often the byte occurs. One call for all of `data` would hold the interpreter for a nanosecond a byte."""
    return sum(data.count(byte, begin, begin + PIECE_BYTES) for begin in range(0, len(data), PIECE_BYTES))


def _marks_outside_texts(data: bytes | bytearray, values_max: int) -> bytes | None:
    """The marks and brackets outside of strings; None if there are more strings than `values_max`.

    Works piece by piece, so that it never holds a second copy of `data`, and holds the interpreter for a piece only.
    """
    outside: list[bytes] = []
    begin, quotes = 0, 0
    while begin < len(data):
        piece = _piece(data, begin)
        begin += len(piece)
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"', 2 * values_max + 1)
        outside.append(b"".join(parts[quotes % 2 :: 2]).translate(None, _NO_MARKS))
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


def _depth(marks: bytes) -> int:
    return max(accumulate(map(_STEP.__getitem__, marks.translate(None, _NO_BRACKETS))), default=0)
