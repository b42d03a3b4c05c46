"""Cleans foreign text before it is shown on a terminal, in a log line or in a preview. Pure.

Control characters and escape sequences (C0, C1) move a terminal's cursor, retitle its window or type for its user. A
line end forges a log line. Direction marks and invisible characters make a text read as another one. Unicode classifies
all of them as not printable.
"""

import re
from typing import Final

_KEPT_IN_LINES: Final = frozenset("\n\t\u200c\u200d")
"""Includes the joiners: Persian, Hindi and many emoji need them."""
_NOT_ASCII: Final = re.compile(r"[^\x20-\x7e\n]")


def printable(text: str) -> str:
    r"""The text on one line, with `\u....` in place of each unprintable character."""
    return text if text.isprintable() else "".join(char if char.isprintable() else _escaped(char) for char in text)


def printable_lines(text: str) -> str:
    """As `printable`, for several lines: line ends, tabs and joiners stay."""
    return "".join(char if char.isprintable() or char in _KEPT_IN_LINES else _escaped(char) for char in text)


def printable_json(text: str) -> str:
    """Equivalent JSON, with escapes for unprintable characters: in valid JSON they occur in strings only."""
    return text if text.isascii() and "\x7f" not in text else _NOT_ASCII.sub(_json_escaped, text)


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}"


def _json_escaped(found: re.Match[str]) -> str:
    char = found.group()
    if char.isprintable():
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
