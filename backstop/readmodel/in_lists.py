"""Lists of ids as parameters of a statement. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

IN_LIST_MAX: Final = 512
"""Parameters per IN list; both databases allow far more, but plan longer lists worse."""


def in_lists(ids: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Slices of `ids`, each with as many question marks.

    A slice is filled up to a power of two with its last id. So a statement has few forms, and stays prepared.
    """
    for start in range(0, len(ids), IN_LIST_MAX):
        part = ids[start : start + IN_LIST_MAX]
        size = 1 << (len(part) - 1).bit_length()
        yield ", ".join("?" * size), (*part, *[part[-1]] * (size - len(part)))
