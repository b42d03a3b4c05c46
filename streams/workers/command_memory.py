"""The command ids of one partition that were seen before: the submitter drops such a command, not to create twice."""

from collections import OrderedDict
from collections.abc import Iterable

SKEW_MS = 30_000
"""Clocks of Backstop's processes differ by less: no command was written so long before its own `at_ms`."""


class CommandMemory:
    """Remembers at most `ids_max` ids, and the time since which it is complete.

    A command is stamped before it is written. So a command stamped after `complete_since_ms` (plus the skew of clocks)
    whose id is not remembered was never seen. For an older command the memory can't tell.
    """

    def __init__(self, ids_max: int, complete_since_ms: int) -> None:
        self._ids_max = ids_max
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._complete_since_ms = complete_since_ms

    def __contains__(self, command_id: str) -> bool:
        return command_id in self._seen

    def __len__(self) -> int:
        return len(self._seen)

    def covers(self, at_ms: int) -> bool:
        """Whether a command stamped at `at_ms` would be remembered if it had been seen."""
        return at_ms - SKEW_MS >= self._complete_since_ms

    def remember(self, command_id: str, written_ms: int) -> None:
        """Add the newest id; beyond `ids_max` the oldest is forgotten."""
        self._seen[command_id] = written_ms
        while len(self._seen) > self._ids_max:
            _, forgotten_ms = self._seen.popitem(last=False)
            self._complete_since_ms = max(self._complete_since_ms, forgotten_ms + 1)

    def add_older(self, older: Iterable[tuple[str, int]], complete_since_ms: int) -> None:
        """Add ids that were read back (with their times of writing, oldest first) before the remembered ones."""
        merged: OrderedDict[str, int] = OrderedDict(older)
        for command_id, written_ms in self._seen.items():
            merged[command_id] = written_ms
        self._seen = OrderedDict()
        self._complete_since_ms = min(self._complete_since_ms, complete_since_ms)
        for command_id, written_ms in merged.items():
            self.remember(command_id, written_ms)
