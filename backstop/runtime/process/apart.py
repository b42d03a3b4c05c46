"""Runs work on large JSON in a process of its own, one at a time: `python -m MODULE IN OUT ...`.

A parser holds the interpreter for its whole call, in a thread, too: 64 MiB of text would hold up the event loop for a
tenth of a second and more. The two numbers are open files: the data, and where the process writes its text. What else
it found comes on its standard output, and is small.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Final, ParamSpec, TypeVar

KEPT: Final = ("PATH", "HOME", "TMPDIR", "LANG", "LC_", "LD_", "DYLD_", "PYTHON", "VIRTUAL_ENV")
"""How the variables begin that a process of ours needs to start. It reads no settings, so it gets no secrets."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done:
    """What the process left: its exit code, its standard output, and its text (empty unless the code is 0)."""

    code: int
    head: bytes
    text: bytes


class Apart:
    """One process of `module` at a time: its memory is some times the data's."""

    def __init__(self, module: str, python: str = sys.executable) -> None:
        self._module = module
        self._python = python
        self._turn = asyncio.Semaphore(1)

    async def run(self, parts: list[bytes], *arguments: str) -> Done:
        """Run the module on `parts`, which is emptied.

        :raises OSError: there is no process or no memory for it now.
        """
        async with self._turn:
            with _unnamed("given") as given, _unnamed("written") as written:
                await _in_thread(_write, given, parts)
                parts.clear()
                code, head = await self._run(given, written, arguments)
                return Done(code, head, b"" if code else await _in_thread(_read, written))

    async def _run(self, given: BinaryIO, written: BinaryIO, arguments: tuple[str, ...]) -> tuple[int, bytes]:
        files = given.fileno(), written.fileno()
        process = await asyncio.create_subprocess_exec(
            self._python, "-P", "-m", self._module, *map(str, files), *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, pass_fds=files,
            env={name: value for name, value in os.environ.items() if name.startswith(KEPT)},  # noqa: TID251
            start_new_session=True,  # Ctrl-C is for the parent.
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
