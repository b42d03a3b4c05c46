"""Reads large answers in a process of its own, one at a time: `python -m streams.openai.large_reader IN OUT VALUES`.

The head comes on standard output, the canonical JSON of the answer in OUT (`backstop.runtime.process.apart`).
"""

import sys
from dataclasses import dataclass
from typing import Any, Final

from backstop.runtime.process.apart import Apart
from backstop.runtime.process.apart_files import left, taken
from schemas.shape import ShapeLimits
from streams.openai import large_json
from streams.openai.foreign_json import NOT_JSON, parse

BEYOND: Final = 3
"""The exit code where the answer exceeds the limits."""

UNWRITABLE: Final = 4
"""The exit code where the answer is nested too deep to be written again."""


@dataclass(frozen=True, slots=True)
class Large:
    """What was read of a large answer."""

    head: Any
    """The object without what only its reader wants (`large_json.head`), or `NOT_JSON`."""
    text: bytes | None
    """The canonical JSON of the response, with an output; None where `head` is complete."""


class LargeReader:
    """One process at a time: its memory is some times the answer's."""

    def __init__(self, shape: ShapeLimits, python: str = sys.executable) -> None:
        self._shape = shape
        self._apart = Apart(__name__, python)

    async def read(self, parts: list[bytes]) -> Large | None:
        """What is in `parts`, which is emptied. None: it exceeds the limits, or can't be written as JSON again.

        :raises ChildProcessError: the process did not end well.
        """
        done = await self._apart.run(parts, str(self._shape.values_max))
        if done.code in (BEYOND, UNWRITABLE):
            return None
        if done.code:
            raise ChildProcessError(f"the reader of a large answer ended with exit code {done.code}")
        return Large(parse(done.head) if done.head else NOT_JSON, done.text or None)


def main(given: int, written: int, values_max: int) -> int:
    try:
        head, text = large_json.read(taken(given), ShapeLimits(values_max=values_max, depth_max=1 << 30))
    except (TypeError, ValueError, RecursionError):
        return UNWRITABLE
    if head is None:
        return BEYOND
    left(written, head, (text,))
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
