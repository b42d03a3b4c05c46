"""What repeated runs say: medians, spread, the ratio to a limit of the same run, and which goals are missed. Pure."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Values = Mapping[str, Sequence[float]]
"""By `scene.figure`: its value in each repeat."""


def flat(found: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested figures, each with its path: `added_ms.p50`."""
    for name, value in found.items():
        where = f"{path}.{name}" if path else name
        if isinstance(value, Mapping):
            yield from flat(value, where)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield where, float(value)


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of the issue's table. `goal` is its bound: the least where `at_least`, else the most."""

    name: str
    what: str
    goal: float | None
    at_least: bool = False
    beside: str | None = None
    """The figure of the same run that nothing built on the same parts can pass."""
    of_beside: float | None = None
    """A bound of the ratio to `beside`, in the direction of `goal`."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A goal with what was measured. `ratio`: of the median to that of `beside`."""

    goal: Goal
    median: float
    least: float
    most: float
    limit: float | None
    ratio: float | None

    @property
    def short(self) -> tuple[str, ...]:
        """What is missed, each with how far; empty where all is reached."""
        goal = self.goal
        missed = []
        if goal.goal is not None and not _good(self.median, goal.goal, goal.at_least):
            missed.append(f"{goal.what}: {self.median:g}, the goal is {_sign(goal)} {goal.goal:g}{self._times()}")
        bound = goal.of_beside
        if bound is not None and self.ratio is not None and not _good(self.ratio, bound, goal.at_least):
            missed.append(f"{goal.what}: {self.ratio:.2f} × `{goal.beside}`, the goal is {_sign(goal)} {bound:g} ×")
        return tuple(missed)

    def _times(self) -> str:
        goal = self.goal.goal
        if not goal or not self.median:
            return ""
        return f" ({max(self.median / goal, goal / self.median):.2f} times)"


def judged(values: Values, goals: Iterable[Goal]) -> list[Judged]:
    """The goals that were measured, in their order."""
    found = []
    for goal in goals:
        own = values.get(goal.name)
        if not own:
            continue
        median = statistics.median(own)
        beside = values.get(goal.beside or "")
        limit = statistics.median(beside) if beside else None
        ratio = median / limit if limit else None
        found.append(Judged(goal, median, min(own), max(own), limit, ratio))
    return found


def _good(value: float, bound: float, at_least: bool) -> bool:
    return value >= bound if at_least else value <= bound


def _sign(goal: Goal) -> str:
    return "≥" if goal.at_least else "≤"
