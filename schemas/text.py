"""What others wrote, before a person sees it: on a terminal, in a log line, in a preview. One cleaner for all. Pure.

A control character moves a terminal's cursor, retitles its window or answers for its user (C0 and C1, escape sequences); a line's end
forges a line; direction marks and invisible characters let a text read as another one. All of them are what Unicode calls not printable.
"""

import re
from typing import Final

_KEPT_IN_LINES: Final = frozenset("\n\t\u200c\u200d")
"""Joiners, too: Persian, Hindi and many emoji can't be written without."""
_NOT_ASCII: Final = re.compile(r"[^\x20-\x7e\n]")


def printable(text: str) -> str:
    r"""On one line, with `\u....` for what does not print."""
    return text if text.isprintable() else "".join(char if char.isprintable() else _escaped(char) for char in text)


def printable_lines(text: str) -> str:
    """As `printable`, for a text of several lines: line ends and tabs stay."""
    return "".join(char if char.isprintable() or char in _KEPT_IN_LINES else _escaped(char) for char in text)


def printable_json(text: str) -> str:
    """JSON that means the same, and prints: there such characters stand in strings only."""
    return text if text.isascii() and "\x7f" not in text else _NOT_ASCII.sub(_json_escaped, text)


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}"


def _json_escaped(found: re.Match[str]) -> str:
    char = found.group()
    if char.isprintable():
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
