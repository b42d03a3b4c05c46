"""PURE: the second attempts beside slow ones of a run: what became of each, by the log, the results and the provider's
ledgers, and what is wrong with it.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from backstop.dev.invariants import Breach, Create
from schemas.jobs import AttemptAccepted, AttemptSettled, HedgePermitted
from schemas.results import JobResult
from streams.fold import job


@dataclass(frozen=True, slots=True)
class GrantedHedge:
    number: int
    beside: int
    at_ms: int = 0


@dataclass(slots=True)
class HedgeLog:
    """What the jobs log tells of hedges."""

    permits: set[str] = field(default_factory=set)
    """Ids of the permissions."""
    granted: defaultdict[str, list[GrantedHedge]] = field(default_factory=lambda: defaultdict(list))
    """By job: one at most."""
    completed: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By job: the responses that completed, in the order of the log."""

    def take(self, event: Any, state: job.JobState, *, ignored: bool) -> None:
        """A fact of a job, and the state that it led to."""
        match event:
            case HedgePermitted():
                self.permits.add(event.id)
                if not ignored and isinstance(state, job.Active) and state.attempts.hedge is not None:
                    hedge = state.attempts.hedge
                    self.granted[event.job_id].append(GrantedHedge(hedge.number, hedge.beside, event.at_ms))
            case AttemptSettled(status="completed"):
                self.completed[event.job_id].append(event.response_id)
            case AttemptAccepted() if event.end is not None and event.end.status == "completed":
                self.completed[event.job_id].append(event.response_id)
            case _:
                pass


@dataclass(frozen=True, slots=True)
class Races:
    """Counts. A hedge *raced* if the provider accepted both attempts."""

    permitted: int = 0
    granted: int = 0
    raced: int = 0
    won: int = 0
    lost: int = 0
    undecided: int = 0
    cancelled: int = 0
    """Of the races that were decided: the provider cancelled the other response."""
    through_a_kill: int = 0
    """Of the races: a worker was killed between the permission and the result."""

    def as_json(self) -> dict[str, int]:
        return asdict(self)


def races(
    log: HedgeLog, creates: Iterable[Create], results: Mapping[str, JobResult], cancelled: Collection[str],
    worker_kills_ms: Collection[int] = (),
) -> Races:  # fmt: skip
    """:param cancelled: the responses that the provider cancelled."""
    responses = {(create.job_id, create.attempt): create.response_id for create in creates}
    ends: Counter[str] = Counter()
    raced = stopped = through = 0
    for job_id, hedges in log.granted.items():
        hedge = hedges[0]
        both = {each: responses.get((job_id, each)) for each in (hedge.number, hedge.beside)}
        if None in both.values():
            continue
        raced += 1
        result = results.get(job_id)
        brief = result.hedge if result is not None else None
        through += result is not None and any(hedge.at_ms <= kill <= result.at_ms for kill in worker_kills_ms)
        ends[(brief.won if brief is not None else None) or "undecided"] += 1
        if brief is not None and brief.won is not None:
            stopped += both[hedge.beside if brief.won == "hedge" else hedge.number] in cancelled
    granted = sum(len(hedges) for hedges in log.granted.values())
    return Races(len(log.permits), granted, raced, ends["hedge"], ends["first"], ends["undecided"], stopped, through)


def cancellations(truth: Iterable[Mapping[str, Any]]) -> set[str]:
    """From the provider's ledger of truth: the responses that it cancelled."""
    return {str(line["response"]) for line in truth if line.get("state") == "cancelled"}


def hedge_breaches(log: HedgeLog, results: Mapping[str, JobResult]) -> list[Breach]:
    """I3: one hedge a job, and none without a permission. I2: the first completion in the log has won."""
    twice = [job_id for job_id, hedges in log.granted.items() if len(hedges) > 1]
    unasked = [job_id for job_id, result in results.items() if result.hedge is not None and job_id not in log.granted]
    return [
        Breach("I3", "jobs with more than one hedge", twice),
        Breach("I3", "hedges without a permission in the log", unasked),
        Breach("I2", "hedged jobs whose winner is not the first that completed in the log", _misjudged(log, results)),
    ]


def _misjudged(log: HedgeLog, results: Mapping[str, JobResult]) -> list[str]:
    found: list[str] = []
    for job_id, result in results.items():
        told = result.hedge
        if told is None or result.outcome != "completed":
            continue
        known = {brief.response_id: brief.attempt for brief in result.attempts if brief.response_id}
        first = next((each for each in log.completed[job_id] if each in known), "")
        expected = {told.attempt: "hedge", told.beside: "first"}.get(known.get(first, 0))
        if told.won != expected:
            found.append(f"{job_id} ({told.won} is said to have won, the log says {expected})")
    return found
