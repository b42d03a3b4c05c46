"""Reads large requests of jobs apart, in a process of its own: `python -m streams.large_requests IN OUT`.

A create needs a few members of a request (`metadata`, `stream`, `reasoning`, ...), and sends the others as they are. So
the process gives the small members as a value, and the others as the text that is sent.
"""

import sys
from dataclasses import dataclass
from typing import Any, Final

import orjson

from backstop.runtime.process.apart import Apart, left, taken

BYTES_MAX: Final = 2 << 20
"""The worst request up to this size takes some 30 ms to parse and to write again."""

SMALL_BYTES_MAX: Final = 32 << 10
"""A member up to this size is parsed by the worker, too."""

NO_OBJECT: Final = 3
"""The exit code where the request is not a JSON object."""


@dataclass(frozen=True, slots=True)
class LargeRequest:
    members: dict[str, Any]
    """The small members."""
    rest: bytes
    """The JSON object of the others; empty if there are none."""


class LargeRequests:
    def __init__(self, python: str = sys.executable) -> None:
        self._apart = Apart(__name__, python)

    async def read(self, data: bytes | memoryview) -> LargeRequest | None:
        """The request in `data`; None if it is not an object.

        :raises OSError: the process did not end well (`ChildProcessError`), or could not begin.
        """
        done = await self._apart.run([bytes(data) if isinstance(data, memoryview) else data])
        if done.code == NO_OBJECT:
            return None
        if done.code:
            raise ChildProcessError(f"the reader of a large request ended with exit code {done.code}")
        return LargeRequest(orjson.loads(done.head), done.text)


def split(data: bytes) -> tuple[bytes, bytes] | None:
    """The small members and the others, each as a JSON object; the second is empty if there are none."""
    value = orjson.loads(data)
    del data
    if not isinstance(value, dict):
        return None
    small, large = {}, []
    for name in sorted(value):
        text = orjson.dumps(value[name], option=orjson.OPT_SORT_KEYS)
        if len(text) <= SMALL_BYTES_MAX:
            small[name] = value[name]
        else:
            large.append(b"%b:%b" % (orjson.dumps(name), text))
        value[name] = None if len(text) > SMALL_BYTES_MAX else value[name]
    return orjson.dumps(small), b"{%b}" % b",".join(large) if large else b""


def main(given: int, written: int) -> int:
    found = split(taken(given))
    if found is None:
        return NO_OBJECT
    left(written, *found)
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
