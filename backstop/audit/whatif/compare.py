"""What would have been otherwise: a range as it was, beside the same range under another policy. Pure and dry.

First the range is replayed without a change. If that does not give the counts of the log, the log has a gap, and
nothing can be said. Then it is replayed with the policy; three times where something had to be assumed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from backstop.audit.whatif.figures import Figures, quantiles_ms, recorded_figures
from backstop.audit.whatif.guesses import Way, guesses
from backstop.audit.whatif.links import Played
from backstop.audit.whatif.policy import AS_IT_WAS, Policy
from backstop.audit.whatif.recorded import Recorded, ReplayRangeError
from backstop.audit.whatif.replay import EndlessError, Replay

BOUNDS: Final[tuple[Way, ...]] = ("worst", "best")

ASSUMED: Final = (
    "Runs, failures and webhooks are as recorded, whatever is polled; so are refusals and rate limits.",
    "A poll that was never made is answered after the median delay, and never fails.",
    "The end of a response is known to about a second: the provider's stamps are whole seconds.",
    "An attempt that begins at another time ends as it did, and takes as long.",
)
"""Held in every what-if."""


@dataclass(frozen=True, slots=True)
class Comparison:
    recorded: Figures
    likely: Played
    worst: Played
    best: Played
    gaps: tuple[str, ...]
    left_out: Mapping[str, int]
    results_gone: int
    """Results that are no longer on their topic; their jobs count by the refold."""

    @property
    def exact(self) -> bool:
        """Whether nothing had to be assumed of a response."""
        return not self.likely.never_created and not self.likely.unknown_ends

    def rows(self) -> list[dict[str, Any]]:
        """One row for each figure."""
        was, likely, *others = (_shown(each) for each in (
            self.recorded, self.likely.figures, self.worst.figures, self.best.figures,
        ))  # fmt: skip
        return [_row(name, was, likely, others, told=not self.exact) for name in likely | was]

    def as_json(self) -> dict[str, Any]:
        return {
            "figures": self.rows(),
            "estimated": {
                "polls_never_made": self.likely.estimated_polls,
                "attempts_at_another_time": self.likely.moved_creates,
                "responses_never_created": self.likely.never_created,
                "responses_of_unknown_end": self.likely.unknown_ends,
            },
            "assumed": list(ASSUMED),
            "left_out": dict(self.left_out),
            "gaps": list(self.gaps),
            "results_gone": self.results_gone,
        }


def compare(recorded: Recorded, policy: Policy) -> Comparison:
    """:raises ReplayRangeError: a replay without a change differs from the log, or the policy has no end."""
    was = recorded_figures(recorded)
    same = Replay(recorded).run()
    gone = same.links.finished - recorded.results.keys()
    if gone:
        was.outcomes, was.in_time, was.open = same.figures.outcomes, same.figures.in_time, same.figures.open
        was.total_ms = same.figures.total_ms
    off = _differences(was, same.figures)
    if off:
        gaps = f" Its offsets have gaps: {'; '.join(recorded.gaps[:3])}." if recorded.gaps else ""
        raise ReplayRangeError(
            f"a replay without any change does not give what the log holds ({off}), so the log has a gap, or another "
            f"release wrote it.{gaps} Name a range without it"
        )
    try:
        likely = worst = best = _play(recorded, policy, same, "likely")
        if likely.never_created or likely.unknown_ends:
            worst, best = (_play(recorded, policy, same, way) for way in BOUNDS)
    except EndlessError as error:
        raise ReplayRangeError(f"the policy makes facts without end: {error}") from None
    return Comparison(was, likely, worst, best, tuple(recorded.gaps), recorded.left_out, len(gone))


def _play(recorded: Recorded, policy: Policy, same: Played, way: Way) -> Played:
    if policy == AS_IT_WAS:
        return same
    return Replay(recorded, policy, same.links, guesses(recorded, same.links.outputs, way)).run()


def _differences(was: Figures, same: Figures) -> str:
    left, right = was.counts(), same.counts()
    names = [name for name in left | right if left.get(name, 0) != right.get(name, 0)]
    return "; ".join(f"{name}: {left.get(name, 0)} in the log, {right.get(name, 0)} replayed" for name in names[:4])


def _shown(figures: Figures) -> dict[str, int | None]:
    counts = figures.counts()
    for name in ("detection_ms_sum", "total_ms_sum"):
        counts.pop(name)
    return {
        **counts,
        **{f"detection_{name}": value for name, value in quantiles_ms(figures.detection_ms).items()},
        **{f"total_{name}": value for name, value in quantiles_ms(figures.total_ms).items()},
    }


def _row(
    name: str, was: dict[str, int | None], likely: dict[str, int | None], others: list[dict[str, int | None]],
    *, told: bool,
) -> dict[str, Any]:  # fmt: skip
    zero = None if name.endswith("_ms") else 0
    before, after = was.get(name, zero), likely.get(name, zero)
    row: dict[str, Any] = {"figure": name, "was": before, "would_be": after}
    row["change"] = None if before is None or after is None else after - before
    bounds = [value for value in (after, *(each.get(name, zero) for each in others)) if value is not None]
    if told and bounds and min(bounds) != max(bounds):
        row |= {"least": min(bounds), "most": max(bounds)}
    return row
