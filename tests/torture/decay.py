"""PURE: whether the system did less and less while it was broken: jobs by minute of their submission, and what was done
twice.

An expiration is *avoidable* where the provider had completed a response of the job before the last poll ahead of its
deadline was due.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.responses import LAST_POLL_LEAD_MS
from schemas.results import JobResult

MINUTE_MS = 60_000
PART_MINUTES_MAX = 5
"""The beginning and the end of a run that are compared, at most; a third of a shorter run."""

PART_JOBS_MIN = 500
"""With fewer jobs in each a difference of `POINTS_MAX` may be chance."""

POINTS_MAX = 5.0
REPEATS_PERCENT_MAX = 25.0
ANSWERS_MIN = 500


@dataclass(frozen=True, slots=True)
class Minute:
    submitted: int
    completed: int
    expired: int
    avoidable: int


@dataclass(frozen=True, slots=True)
class Decay:
    minutes: tuple[Minute, ...]
    answers: int
    repeats: int
    """Answers to a poll or cancel that was answered before."""

    @property
    def parts(self) -> tuple[Sequence[Minute], Sequence[Minute]]:
        length = min(PART_MINUTES_MAX, max(1, len(self.minutes) // 3))
        return self.minutes[:length], self.minutes[-length:]

    @property
    def repeats_percent(self) -> float:
        return 100 * self.repeats / max(1, self.answers)

    def found(self) -> tuple[list[str], list[str]]:
        """What is wrong: an end worse than the beginning, and more repeats than assignments explain."""
        first, last = self.parts
        enough = min(_total(part, "submitted") for part in (first, last)) >= PART_JOBS_MIN and len(self.minutes) >= 3
        worse = enough and expired_percent(last) > expired_percent(first) + POINTS_MAX
        shares = f"{expired_percent(first):.1f} % at first, {expired_percent(last):.1f} % at the end"
        many = self.answers >= ANSWERS_MIN and self.repeats_percent > REPEATS_PERCENT_MAX
        return [shares] if worse else [], [f"{self.repeats} of {self.answers}"] if many else []


def expired_percent(minutes: Iterable[Minute]) -> float:
    part = tuple(minutes)
    return 100 * _total(part, "expired") / max(1, _total(part, "submitted"))


def decay_of(
    results: Mapping[str, JobResult], deadlines_ms: Mapping[str, int], completed_ms: Mapping[str, int],
    answers: Counter[str],
) -> Decay:  # fmt: skip
    """`completed_ms`: when the provider first completed a response of each job. `answers`: ids of what polls brought,
    counted.
    """
    if not results:
        return Decay((), answers.total(), answers.total() - len(answers))
    began_ms = min(result.timings.submitted_at_ms for result in results.values())
    counts: dict[int, Counter[str]] = {}
    for job_id, result in results.items():
        count = counts.setdefault((result.timings.submitted_at_ms - began_ms) // MINUTE_MS, Counter())
        count["submitted"] += 1
        count[result.outcome] += 1
        in_time_ms = deadlines_ms.get(job_id, 0) - LAST_POLL_LEAD_MS
        count["avoidable"] += result.outcome == "expired" and completed_ms.get(job_id, in_time_ms + 1) <= in_time_ms
    minutes = tuple(
        Minute(count["submitted"], count["completed"], count["expired"], count["avoidable"])
        for count in (counts.get(number, Counter()) for number in range(max(counts) + 1))
    )
    return Decay(minutes, answers.total(), answers.total() - len(answers))


def completions(truth: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """From the provider's ledger of truth: job → when it first completed a response of it."""
    found: dict[str, int] = {}
    for line in truth:
        if line.get("state") == "completed":
            found.setdefault(str(line.get("job")), int(line["at_ms"]))
    return found


def _total(minutes: Iterable[Minute], name: str) -> int:
    return sum(getattr(minute, name) for minute in minutes)
