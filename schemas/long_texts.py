"""Long strings of large JSON, which stay bytes. Pure.

Python holds a text with one four-byte character at four bytes a character, and a parser or a writer holds the
interpreter for its whole call. So a string beyond `CHARS_MAX` in a large body is a `LongText`: its UTF-8, of which no
step makes more than a piece of text. `schemas.long_json` reads such bodies, `schemas.codec.canonical` writes them.
"""

import io
from collections.abc import Iterator
from typing import Any, Final, Self

import orjson

CHARS_MAX: Final = 200
"""Shorter strings are what they are. Above every limit of a text that Backstop checks (`tests/unit/schemas`), so that a
long text exceeds each of them.
"""

LARGE_BYTES: Final = 2 << 20
"""JSON up to this size is read and written as a whole: the worst takes some 30 ms."""

PIECE_BYTES: Final = 256 << 10
"""What one call works on: half a millisecond."""

_UNWRITABLE: Final = "\ud800"


class LongText(str):
    """A string of more than `CHARS_MAX` characters, for checks that look at the type, the length or the beginning.

    As a `str` it is its beginning and a lone surrogate, which has no UTF-8: writing the beginning for the whole is an
    error.
    """

    __slots__ = ("_chars", "utf8")

    utf8: bytes
    """All of it."""
    _chars: int

    def __new__(cls, beginning: str, utf8: bytes, chars: int) -> Self:
        text = super().__new__(cls, beginning[:CHARS_MAX] + _UNWRITABLE)
        text.utf8, text._chars = utf8, chars
        return text

    def __len__(self) -> int:
        return self._chars

    def __sizeof__(self) -> int:
        """About what the text would take as a `str`."""
        return self._chars * (1 if self._chars == len(self.utf8) else 4)

    @property
    def beginning(self) -> str:
        return self[:CHARS_MAX]

    def whole(self) -> str:
        return self.utf8.decode()

    def pieces(self, begin: int = 0) -> Iterator[str]:
        """The text in pieces, from this byte of its UTF-8 on."""
        while begin < len(self.utf8):
            end = begin + PIECE_BYTES
            while end < len(self.utf8) and self.utf8[end] & 0xC0 == 0x80:
                end -= 1
            yield self.utf8[begin:end].decode()
            begin = end

    def after_beginning(self) -> Iterator[str]:
        return self.pieces(len(self.beginning.encode()))


def whole(value: Any) -> Any:
    """A JSON value with its long texts as a `str` each. For values that are known to be small, or single texts."""
    if isinstance(value, LongText):
        return value.whole()
    if isinstance(value, dict):
        return {name: whole(each) for name, each in value.items()}
    return [whole(each) for each in value] if isinstance(value, list) else value


def beginnings(value: Any) -> Any:
    """A JSON value with the beginnings of its long texts: enough where any text of that length is refused."""
    if isinstance(value, LongText):
        return value.beginning
    if isinstance(value, dict):
        return {name: beginnings(each) for name, each in value.items()}
    return [beginnings(each) for each in value] if isinstance(value, list) else value


def has_long_text(value: Any) -> bool:
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, LongText):
            return True
        if isinstance(each, dict):
            left += each.values()
        elif isinstance(each, list):
            left += each
    return False


def written(value: Any) -> bytes:
    """JSON with sorted keys, made piece by piece where the value has long texts."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        if not has_long_text(value):
            raise
    out = io.BytesIO()
    _write(value, out)
    return out.getvalue()


def json_pieces(text: LongText) -> Iterator[bytes]:
    yield b'"'
    for piece in text.pieces():
        yield orjson.dumps(piece)[1:-1]
    yield b'"'


def _write(value: Any, out: io.BytesIO) -> None:
    if isinstance(value, LongText):
        out.writelines(json_pieces(value))
    elif isinstance(value, dict):
        between = b"{"
        for name in sorted(value):  # by code points, as a writer sorts by UTF-8
            out.write(b"%b%b:" % (between, orjson.dumps(name)))
            between = b","
            _write(value[name], out)
        out.write(b"}" if value else b"{}")
    elif isinstance(value, list):
        between = b"["
        for each in value:
            out.write(between)
            between = b","
            _write(each, out)
        out.write(b"]" if value else b"[]")
    else:
        out.write(orjson.dumps(value))
