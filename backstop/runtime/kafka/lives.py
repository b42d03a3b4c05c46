"""Which processes run, and which end again and again soon after their start, by the records of `clock`. Pure.

A process asks for the broker's time when it starts and every `ASK_EVERY_S`. The record names the process, its start and
its age. A start that is not heard any more has ended; how old it became is what it said last.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from backstop.runtime.kafka.broker_clock import ASK_EVERY_S
from backstop.runtime.process.identity import ProcessName

SILENT_MS: Final = int(1.5 * ASK_EVERY_S * 1000)
"""A start that is silent for so long has ended."""
SHORT_S: Final = 300
"""A process that became no older than this ended soon after its start."""
WITHIN_MS: Final = 900_000
ENDS_TOLD: Final = 3
"""So many such ends within `WITHIN_MS` are told: one or two are a deployment that was taken back."""
LIVES_MAX: Final = 1_000
"""Starts that are remembered. Beyond it the one that was silent for longest is forgotten."""


@dataclass(frozen=True, slots=True)
class ShortLives:
    """Processes of one kind on one host that ended soon after their starts."""

    component: str
    host: str
    ends: int
    since_ms: int
    """When the first of them was last heard."""


@dataclass(frozen=True, slots=True)
class _Life:
    process: ProcessName
    age_s: int
    heard_ms: int


class Lives:
    def __init__(self) -> None:
        self._lives: dict[str, _Life] = {}

    def heard(self, process: ProcessName, life: str, age_s: int, at_ms: int) -> None:
        """Take what one record tells. Records of a topic are in order, but those of two producers may be not."""
        before = self._lives.pop(life, None)
        if before is not None:
            age_s, at_ms = max(age_s, before.age_s), max(at_ms, before.heard_ms)
        self._lives[life] = _Life(process, age_s, at_ms)
        while len(self._lives) > LIVES_MAX:
            del self._lives[next(iter(self._lives))]

    def running(self, now_ms: int) -> Iterator[ProcessName]:
        """The processes that were heard a moment ago."""
        return (each.process for each in self._lives.values() if now_ms - each.heard_ms <= SILENT_MS)

    def short(self, now_ms: int) -> list[ShortLives]:
        """Those that end again and again, in the order of their names."""
        ends: dict[tuple[str, str], list[int]] = {}
        for each in self._lives.values():
            silent_ms = now_ms - each.heard_ms
            if SILENT_MS < silent_ms <= WITHIN_MS and each.age_s <= SHORT_S:
                ends.setdefault((each.process.component, each.process.host), []).append(each.heard_ms)
        return [ShortLives(*key, len(at), min(at)) for key, at in sorted(ends.items()) if len(at) >= ENDS_TOLD]
