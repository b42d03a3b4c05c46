"""The text of a keys file, key by key: parsers hold the interpreter for a whole text, here megabytes."""

import json
from collections.abc import Iterator
from typing import Any, Final, NoReturn


def members(text: str) -> Iterator[tuple[str, str, Any]]:
    """`(name, text, value)` of each member of the object in `text`; of a list `keys`, of each of its items.

    :raises ValueError: this is no JSON object.
    """
    at = _Cursor(text)
    at.need("{")
    more = not at.takes("}")
    while more:
        name = at.value()
        if not isinstance(name, str):
            at.refuse("Expecting property name")
        at.need(":")
        if name == "keys" and at.takes("["):
            within = not at.takes("]")
            while within:
                begin = at.place
                value = at.value()
                yield name, text[begin : at.place], value
                within = at.goes_on("]")
        else:
            begin = at.place
            value = at.value()
            yield name, text[begin : at.place], value
        more = at.goes_on("}")
    if at.place < len(text):
        at.refuse("Extra data")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


class _Cursor:
    """A place in a text, never on a space."""

    SPACES: Final = " \t\n\r"
    DECODER: Final = json.JSONDecoder(parse_constant=_no_number)

    def __init__(self, text: str) -> None:
        self._text = text
        self.place = 0
        self._skip()

    def value(self) -> Any:
        found, self.place = self.DECODER.raw_decode(self._text, self.place)
        self._skip()
        return found

    def takes(self, mark: str) -> bool:
        if not self._text.startswith(mark, self.place):
            return False
        self.place += 1
        self._skip()
        return True

    def need(self, mark: str) -> None:
        if not self.takes(mark):
            self.refuse(f"Expecting {mark!r}")

    def goes_on(self, end: str) -> bool:
        """Past a comma, or the `end` in its place."""
        if self.takes(","):
            return True
        self.need(end)
        return False

    def refuse(self, why: str) -> NoReturn:
        raise json.JSONDecodeError(why, self._text, self.place)

    def _skip(self) -> None:
        while self.place < len(self._text) and self._text[self.place] in self.SPACES:
            self.place += 1
