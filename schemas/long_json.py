"""Reads large JSON without making a `str` of a long string (`schemas.long_texts`). Pure.

Each long string is replaced by a short one, its number, before the parser sees the JSON. What the parser says of the
short JSON holds for the whole: pieces that were left out are valid inside a string, each by the same parser.
"""

import codecs
import io
import re
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from schemas import long_texts
from schemas.long_texts import CHARS_MAX, LARGE_BYTES, LongText

_FIRST_BYTES: Final = 4 << 10
"""The first piece of a string, as most are short. Each further one is as long as all before."""

_ESCAPE_BYTES: Final = 6
_AFTER_ERROR_BYTES: Final = 64

_PLACE: Final = b'"%%0%dd"' % (CHARS_MAX + 1)
"""The number of a long text, as a string longer than any that is kept."""

_WHITE: Final = b" \t\n\r"
_WHITE_RUN: Final = re.compile(rb"(?<![ \t\n\r])[ \t\n\r]{256,}")
"""Longer than any run in a string that is kept."""
_AS_SPACES: Final = bytes.maketrans(_WHITE, b"    ")
_SPACES: Final = b" " * 256


def load(data: bytes | bytearray) -> Any:
    """The JSON value of `data`, with a `LongText` for each long string; a `bytearray` is emptied, as its memory is
    needed for what follows. Names of members are whole. Where the long texts take no more than `LARGE_BYTES`, they are
    whole, too.

    :raises orjson.JSONDecodeError: with the message and the position that the parser has for the whole.
    """
    _refuse_no_utf8(data)
    short = _Shortened(data)
    if isinstance(data, bytearray):
        data.clear()
    try:
        value = orjson.loads(short.json.getbuffer())
    except orjson.JSONDecodeError as error:
        raise orjson.JSONDecodeError(error.msg, "", short.position(error.pos)) from None
    return _restored(value, short.texts)


def _refuse_no_utf8(data: bytes | bytearray) -> None:
    if data.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    with memoryview(data) as view:
        try:
            for begin in range(0, len(view), long_texts.PIECE_BYTES):
                decoder.decode(view[begin : begin + long_texts.PIECE_BYTES])
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            orjson.loads(b"\xff")  # raises what it raises for any such text


@dataclass(slots=True)
class _Text:
    """A string that is being read."""

    at: int
    """Where the rest of it begins."""
    utf8: io.BytesIO = field(default_factory=io.BytesIO)
    beginning: str = ""
    chars: int = 0
    chars_in_json: int = 0


class _Shortened:
    """JSON with a number in the place of each long string, and a space in the place of many."""

    def __init__(self, data: bytes | bytearray) -> None:
        self.json = io.BytesIO()
        self.texts: list[LongText] = []
        self._cuts: list[tuple[int, int]] = []
        """Before which byte of `json` how many characters were left out."""
        self._data = data
        with memoryview(data) as self._view:
            self._shorten()
        del self._data, self._view

    def position(self, chars: int) -> int:
        """Where the character of `json` is in the whole."""
        with self.json.getbuffer() as view:
            at = len(bytes(view[: 4 * chars]).decode(errors="ignore")[:chars].encode())
        return chars + sum(left_out for before, left_out in self._cuts if before <= at)

    def _shorten(self) -> None:
        data, kept, at = self._data, 0, 0
        while (quote := data.find(b'"', at)) >= 0:
            begin = quote + 1
            end = data.find(b'"', begin, begin + CHARS_MAX + 1)
            if end >= 0 and data.find(b"\\", begin, end) < 0:
                at = end + 1
                continue
            text = _Text(begin)
            while (begin := text.at) < len(data) and not self._read_on(text):
                if text.at == begin:  # not JSON: the parser is to see why
                    self._keep(kept, quote + 1)
                    self._cuts.append((self.json.tell(), text.chars_in_json))
                    self.json.write(self._view[begin : self._end_near(begin)])
                    return
            at = text.at + 1
            if text.chars > CHARS_MAX and text.at < len(data):
                self._keep(kept, quote)
                kept = at
                self.json.write(_PLACE % len(self.texts))
                self._cuts.append((self.json.tell(), text.chars_in_json - CHARS_MAX - 1))
                self.texts.append(LongText(text.beginning, text.utf8.getvalue(), text.chars))
        self._keep(kept, len(data))

    def _end_near(self, begin: int) -> int:
        """The end of a character behind the error in the piece at `begin`."""
        end = min(len(self._data), begin + long_texts.PIECE_BYTES + _AFTER_ERROR_BYTES)
        while end < len(self._data) and self._data[end] & 0xC0 == 0x80:
            end -= 1
        return end

    def _read_on(self, text: _Text) -> bool:
        """Read a piece of a string; whether the string ends with it. An invalid or endless one is not read on."""
        size = min(max(_FIRST_BYTES, text.chars_in_json), long_texts.PIECE_BYTES)
        piece = bytes(self._view[text.at : text.at + size])
        marked = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in piece else piece
        end = marked.find(b'"')
        ends = end >= 0
        if not ends:
            if text.at + len(piece) == len(self._data):
                return False
            end = _undivided(marked)
        try:
            read = orjson.loads(b'"%b"' % piece[:end])
        except orjson.JSONDecodeError:
            return False
        if len(text.beginning) < CHARS_MAX:
            text.beginning += read[: CHARS_MAX - len(text.beginning)]
        text.utf8.write(read.encode())
        text.chars += len(read)
        text.chars_in_json += end if piece.isascii() else len(piece[:end].decode())
        text.at += end
        return ends

    def _keep(self, begin: int, end: int) -> None:
        for at in range(begin, end, long_texts.PIECE_BYTES):
            piece = bytes(self._view[at : min(end, at + long_texts.PIECE_BYTES)])
            done = 0
            if _SPACES in piece.translate(_AS_SPACES):
                for run in _WHITE_RUN.finditer(piece):
                    self.json.write(piece[done : run.start()] + b" ")
                    self._cuts.append((self.json.tell(), run.end() - run.start() - 1))
                    done = run.end()
            self.json.write(piece[done:])


def _undivided(marked: bytes) -> int:
    """How much of a piece of a string to take, so that no character, escape or pair of surrogates is divided.

    `marked` has no escaped quotes or backslashes.
    """
    end = len(marked)
    while end and marked[end - 1] & 0xC0 == 0x80:
        end -= 1
    if end and marked[end - 1] & 0xC0 == 0xC0:
        end -= 1
    escape = marked.find(b"\\", max(0, end - 2 * _ESCAPE_BYTES), end)
    if escape < 0:
        return end
    high = escape - _ESCAPE_BYTES
    if high >= 0 and marked[high : high + 3].lower() == b"\\ud" and marked[high + 3] in b"89abAB":
        return high
    return escape


def _restored(value: Any, texts: list[LongText]) -> Any:
    """The value with the long texts in the places of their numbers."""
    holder = [value]
    left: list[Any] = [holder]
    places: list[tuple[Any, Any, LongText]] = []
    while left:
        each = left.pop()
        if isinstance(each, dict) and any(len(name) > CHARS_MAX for name in each):
            _rename(each, texts)
        for place, inner in each.items() if isinstance(each, dict) else enumerate(each):
            if isinstance(inner, dict | list):
                left.append(inner)
            elif isinstance(inner, str) and len(inner) > CHARS_MAX:
                places.append((each, place, texts[int(inner)]))
    is_large = sum(len(text.utf8) for _, _, text in places) > LARGE_BYTES
    for each, place, text in places:
        each[place] = text if is_large else text.whole()
    return holder[0]


def _rename(members: dict[str, Any], texts: list[LongText]) -> None:
    """Give long names their text. Of two equal ones the later counts, as for the parser."""
    given = [*members.items()]
    members.clear()
    for name, value in given:
        members[texts[int(name)].whole() if len(name) > CHARS_MAX else name] = value
