"""Append-only ledgers of the server's actions: the newest lines in memory, all lines in files if a folder is given."""

from __future__ import annotations

import os
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, get_args

import orjson

from backstop.simulator.clock import Clock

LedgerName = Literal["creates", "calls", "deliveries", "tokens", "truth"]
LEDGER_NAMES: Final[tuple[LedgerName, ...]] = get_args(LedgerName)
MEMORY_LINES_MAX: Final = 200_000


class LineLedger:
    """One append-only list of JSON lines, numbered from 1 without gaps."""

    def __init__(self, name: LedgerName, clock: Clock, folder: Path | None, lines_max: int = MEMORY_LINES_MAX) -> None:
        self._clock = clock
        self._lines: deque[bytes] = deque(maxlen=lines_max)
        self.last = 0
        self._fd: int | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}.jsonl"
            # Continue an earlier process's file, so that `n` has no gap in it either.
            self.last = _line_count(path)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @property
    def first(self) -> int:
        """The number of the oldest line in memory; `last + 1` if there is none."""
        return self.last - len(self._lines) + 1

    def write(self, **fields: Any) -> None:
        """Append a line. With a file, the line is written when the call returns, and survives a SIGKILL."""
        self.last += 1
        line = orjson.dumps({"n": self.last, "at_ms": self._clock.wall_ms(), **fields}) + b"\n"
        self._lines.append(line)
        if self._fd is not None:
            os.write(self._fd, line)

    def read(self, since: int, limit: int) -> bytes:
        """At most `limit` lines after number `since` that are still in memory, oldest first."""
        start = max(since + 1 - self.first, 0)
        return b"".join(islice(self._lines, start, start + limit))

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _line_count(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


class Ledgers:
    """The five ledgers by name."""

    def __init__(self, clock: Clock, folder: Path | None) -> None:
        self.creates = LineLedger("creates", clock, folder)
        self.calls = LineLedger("calls", clock, folder)
        self.deliveries = LineLedger("deliveries", clock, folder)
        self.tokens = LineLedger("tokens", clock, folder)
        self.truth = LineLedger("truth", clock, folder)

    def by_name(self, name: LedgerName) -> LineLedger:
        """One of the five."""
        ledger: LineLedger = getattr(self, name)
        return ledger

    def close(self) -> None:
        """Close all files."""
        for name in LEDGER_NAMES:
            self.by_name(name).close()
