"""Reads large answers in a process of its own, one at a time: `python -m streams.openai.large_reader IN OUT VALUES`.

The two numbers are open files: the answer, and where its canonical JSON goes. The head comes on standard output.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, ParamSpec, TypeVar

from schemas.shape import ShapeLimits
from streams.openai import large_json
from streams.openai.foreign_json import NOT_JSON, parse

P = ParamSpec("P")
T = TypeVar("T")

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
        self._python = python
        self._turn = asyncio.Semaphore(1)

    async def read(self, parts: list[bytes]) -> Large | None:
        """What is in `parts`, which is emptied. None: it exceeds the limits, or can't be written as JSON again.

        :raises ChildProcessError: the process did not end well.
        """
        async with self._turn:
            with _unnamed("answer") as given, _unnamed("canonical") as written:
                await _in_thread(_write, given, parts)
                parts.clear()
                code, head = await self._run(given, written)
                if code in (BEYOND, UNWRITABLE):
                    return None
                if code:
                    raise ChildProcessError(f"the reader of a large answer ended with exit code {code}")
                text = await _in_thread(_read, written)
        return Large(parse(head) if head else NOT_JSON, text or None)

    async def _run(self, given: BinaryIO, written: BinaryIO) -> tuple[int, bytes]:
        files = given.fileno(), written.fileno()
        process = await asyncio.create_subprocess_exec(
            self._python, "-P", "-m", __name__, *map(str, files), str(self._shape.values_max),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, pass_fds=files,
            start_new_session=True,  # Ctrl-C is for the worker.
        )  # fmt: skip
        try:
            head, _ = await process.communicate()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return process.returncode or 0, head


async def _in_thread(work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """As `asyncio.to_thread`. A cancelled call waits for the thread: it uses files that are closed after the call."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **options))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _unnamed(name: str) -> BinaryIO:
    """A file without a name, in memory where the system has such files; it ends with its last user."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create(name), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _write(file: BinaryIO, parts: Iterable[bytes]) -> None:
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[file.write(view) :]
    file.seek(0)


def _read(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _taken(given: int) -> bytes:
    """What is in the file, which is empty then: there is one copy."""
    with os.fdopen(given, "r+b") as file:
        data = file.read()
        file.truncate(0)
    return data


def main(given: int, written: int, values_max: int) -> int:
    try:
        head, text = large_json.read(_taken(given), ShapeLimits(values_max=values_max, depth_max=1 << 30))
    except (TypeError, ValueError, RecursionError):
        return UNWRITABLE
    if head is None:
        return BEYOND
    with os.fdopen(written, "wb") as file:
        file.write(text)
    sys.stdout.buffer.write(head)
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
