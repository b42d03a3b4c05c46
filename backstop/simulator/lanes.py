"""Counts creates by minute and lane (account and model). An outage must not multiply them."""

from __future__ import annotations

from typing import Any, Final

from backstop.simulator.clock import Clock

MINUTE_MS: Final = 60_000
MINUTES_MAX: Final = 100_000
_Lane = tuple[int, str | None]


class LaneCounts:
    """Creates and acceptances by minute of the wall clock. Beyond the limit the oldest minutes are dropped."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: dict[tuple[int, _Lane], list[int]] = {}

    def count(self, project: int, model: str | None, *, accepted: bool) -> None:
        """Count a create of this lane; `project` -1 is an unknown key."""
        at_ms = self._clock.wall_ms() // MINUTE_MS * MINUTE_MS
        counts = self._counts.setdefault((at_ms, (project, model)), [0, 0])
        counts[0] += 1
        counts[1] += accepted
        if len(self._counts) > MINUTES_MAX:
            del self._counts[next(iter(self._counts))]

    def shown(self) -> list[dict[str, Any]]:
        """Each lane with its minutes, oldest first; a minute without a create is left out."""
        lanes: dict[_Lane, list[dict[str, int]]] = {}
        for (at_ms, lane), (creates, accepted) in self._counts.items():
            lanes.setdefault(lane, []).append({"at_ms": at_ms, "creates": creates, "accepted": accepted})
        return [{"project": project, "model": model, "minutes": each} for (project, model), each in lanes.items()]
