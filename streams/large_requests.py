"""Reads large JSON objects apart, in a process of its own (`streams.large_split`).

A create needs a few members of a request (`metadata`, `stream`, `reasoning`, ...), and sends the others as they are; a
read of a response changes a few and shows the others. So the process gives the small members as a value, and the others
as JSON text.
"""

import sys
from dataclasses import dataclass
from typing import Any, Final

import orjson

from backstop.runtime.process.apart import Apart
from schemas.long_texts import LARGE_BYTES
from streams import large_split
from streams.large_split import NO_OBJECT

BYTES_MAX: Final = LARGE_BYTES


@dataclass(frozen=True, slots=True)
class LargeRequest:
    members: dict[str, Any]
    """The small members."""
    rest: bytes
    """The JSON object of the others; empty if there are none."""
    names: tuple[str, ...] = ()
    """Of the others."""


class LargeRequests:
    def __init__(self, python: str = sys.executable) -> None:
        self._apart = Apart(large_split.__name__, python)

    async def read(self, data: bytes | memoryview, member: str | None = None) -> LargeRequest | None:
        """The object in `data`, or in its `member`; None if it is not an object.

        :raises OSError: the process did not end well (`ChildProcessError`), or could not begin.
        """
        parts = [bytes(data)]
        del data  # the process has it: its memory is needed for what follows
        done = await self._apart.run(parts, *(() if member is None else (member,)))
        if done.code == NO_OBJECT:
            return None
        if done.code:
            raise ChildProcessError(f"the reader of a large request ended with exit code {done.code}")
        members, names = orjson.loads(done.head)
        return LargeRequest(members, done.text, tuple(names))
