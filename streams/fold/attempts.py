"""The attempts of one job: a frozen class per state, and the counts that the retry policy reads. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from schemas.base import Cause, Usage
from schemas.results import AttemptBrief
from schemas.statuses import GIVEN_UP_STATUSES, SettledStatus
from streams.policy.retry import Spend, Spent

FREE_REMEMBERED_MAX = 8
"""How many attempts that ended without usage a job remembers: the newest ones."""


@dataclass(frozen=True, slots=True)
class Submitting:
    """The create command is published; no report yet."""

    number: int
    since_ms: int
    report_by_ms: int
    kind: Literal["submitting"] = "submitting"


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """The outcome of the create is unknown. The attempt may be adopted until `adopt_by_ms`; then it is abandoned."""

    number: int
    adopt_by_ms: int
    answered: bool = False
    """The create was answered with a 5xx that does not prove a refusal."""
    said: str = ""
    """The beginning of that answer."""
    taken: bool = False
    """It was taken, and no response is known. It is never abandoned: a repeat would be paid again."""
    kind: Literal["outcome_unknown"] = "outcome_unknown"


@dataclass(frozen=True, slots=True)
class Running:
    number: int
    response_id: str
    accepted_at_ms: int
    adopted: bool
    kind: Literal["running"] = "running"


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The outcome stayed unknown past the grace, so a retry is granted. The attempt may still be adopted."""

    number: int
    answered: bool = False
    """As in `OutcomeUnknown`: then the attempt counts as doubtful, otherwise as paid."""
    kind: Literal["abandoned"] = "abandoned"


@dataclass(frozen=True, slots=True)
class Over:
    number: int
    response_id: str
    status: SettledStatus
    accepted_at_ms: int
    adopted: bool
    code: str | None = None
    usage: Usage | None = None
    kind: Literal["over"] = "over"

    @property
    def given_up(self) -> bool:
        """Whether the response was missing or stuck: it may still complete, and win."""
        return self.status in GIVEN_UP_STATUSES


@dataclass(frozen=True, slots=True)
class Hedged:
    """The job's hedge: the attempt `number`, which began beside the attempt `beside`. A job has one at most."""

    number: int
    beside: int
    after_ms: int
    """The age of the other attempt's response when the hedge began."""
    spent: bool = False
    """The hedge ended, and was or may have been accepted. It is in no other count."""


Attempt = Submitting | OutcomeUnknown | Running | Abandoned | Over


@dataclass(frozen=True, slots=True)
class Attempts:
    """The attempts in order of their numbers.

    A refused attempt made no response: it is counted and leaves the list. So the length of the list is bounded by the
    retries granted after other ends (`retries_max`, `unpaid_ends_max`, `doubts_max`).
    """

    items: tuple[Attempt, ...] = ()
    last_number: int = 0
    retries: int = 0
    """Attempts that are over or abandoned, and were paid or may have been. Each one asked for a retry."""
    unpaid_ends: int = 0
    doubts: int = 0
    rejections: int = 0
    unknowns: int = 0
    streak: int = 0
    """Number of consecutive attempts that ended with `streak_cause`."""
    streak_cause: Cause | None = None
    continuation_id: str | None = None
    """The id by which the next create continues the completion window of an earlier one."""
    booked: tuple[str, ...] = ()
    """Responses outside of `items` whose usage was booked: second responses of an attempt."""
    hedge: Hedged | None = None
    beside_tokens: int = 0
    """Of a job with a cap: tokens of second responses of an attempt."""
    beside_pico: int = 0
    """Of a job with a cap of money: picodollars of second responses, and of calls of tools."""

    def get(self, number: int) -> Attempt | None:
        return next((item for item in self.items if item.number == number), None)

    def of_response(self, response_id: str) -> Running | Over | None:
        for item in self.items:
            if isinstance(item, Running | Over) and item.response_id == response_id:
                return item
        return None

    def begin(self, attempt: Submitting) -> "Attempts":
        return replace(self, items=(*self.items, attempt), last_number=attempt.number)

    def put(self, attempt: Attempt) -> "Attempts":
        """Replace the attempt that has the same number."""
        unknowns = self.unknowns + (1 if isinstance(attempt, OutcomeUnknown) else 0)
        items = tuple(attempt if item.number == attempt.number else item for item in self.items)
        return replace(self, items=_bounded(items), unknowns=unknowns)

    def learn(self, known: OutcomeUnknown | Abandoned) -> "Attempts":
        """Note what a late report tells of an attempt whose outcome stays unknown: that is counted already."""
        return replace(self, items=tuple(known if item.number == known.number else item for item in self.items))

    def restore(self, refused: Running) -> "Attempts":
        """Put back a refused attempt that was taken after all."""
        return replace(self, items=tuple(sorted((*self.items, refused), key=lambda item: item.number)))

    def reject(self, number: int) -> "Attempts":
        """Remove a refused attempt."""
        return replace(self, items=tuple(item for item in self.items if item.number != number))

    def count(self, number: int, spend: Spend, cause: Cause) -> "Attempts":
        """Count an attempt that ended: by what it may have cost, and in the streak of its cause.

        The hedge is granted beside the retries, so its end takes none of them.
        """
        if self.hedge is not None and self.hedge.number == number:
            if spend == "refused":
                return replace(self, rejections=self.rejections + 1)
            return replace(self, hedge=replace(self.hedge, spent=True))
        return replace(
            self,
            retries=self.retries + (spend == "paid"),
            unpaid_ends=self.unpaid_ends + (spend == "unpaid"),
            doubts=self.doubts + (spend == "doubtful"),
            rejections=self.rejections + (spend == "refused"),
            streak=self.streak + 1 if cause == self.streak_cause else 1,
            streak_cause=cause,
        )

    def accounted(self) -> int:
        """An upper bound of the accepted creates: attempts that were paid, ended unpaid, are doubtful, or are live."""
        live = sum(isinstance(item, Submitting | OutcomeUnknown | Running) for item in self.items)
        hedge = self.hedge is not None and self.hedge.spent
        return self.retries + self.unpaid_ends + self.doubts + hedge + live

    def find(self, known: Abandoned) -> "Attempts":
        """Take back the count of an abandoned attempt whose outcome is known now: its cost is counted when it ends."""
        if self.hedge is not None and self.hedge.number == known.number:
            return replace(self, hedge=replace(self.hedge, spent=False))
        if known.answered:
            return replace(self, doubts=max(0, self.doubts - 1))
        return replace(self, retries=max(0, self.retries - 1))

    def doubt(self, answered: Abandoned) -> "Attempts":
        """Count an abandoned attempt as doubtful instead of paid: its create was answered with a 5xx."""
        known = self.learn(replace(answered, answered=True))
        if self.hedge is not None and self.hedge.number == answered.number:
            return known
        return replace(known, retries=max(0, self.retries - 1), doubts=self.doubts + 1)

    def spent(self) -> Spent:
        return Spent(self.retries, self.unpaid_ends, self.doubts, self.rejections, self.streak)

    def usages(self) -> list[Usage]:
        """The known usage of each attempt."""
        return [item.usage for item in self.items if isinstance(item, Over) and item.usage is not None]

    def usage(self) -> Usage | None:
        """The sum of the known usage of all attempts; None if none is known."""
        known = self.usages()
        return known[0] if len(known) == 1 else total(known) if known else None

    def expire(self, due_ms: int, adopt_by_ms: int) -> "Attempts":
        """Apply a timer: without a report by its deadline an attempt's outcome is unknown, and it may be adopted until
        `adopt_by_ms`. An unknown attempt past its own grace is abandoned.
        """
        changed = self
        for item in self.items:
            match item:
                case Submitting() if item.report_by_ms <= due_ms:
                    changed = changed.put(OutcomeUnknown(item.number, adopt_by_ms))
                case OutcomeUnknown() if item.adopt_by_ms <= due_ms and not item.taken:
                    changed = changed.put(Abandoned(item.number, item.answered))
                case _:
                    pass
        return changed

    def live(self) -> bool:
        return any(isinstance(item, Submitting | OutcomeUnknown | Running) for item in self.items)

    def awaited(self) -> bool:
        """Whether a live attempt holds the next one back: all do but a hedge that was taken and named no response."""
        return any(
            isinstance(item, Submitting | OutcomeUnknown | Running)
            for item in self.items
            if not (self.hedge and item.number == self.hedge.number and isinstance(item, OutcomeUnknown) and item.taken)
        )

    def abandoned(self) -> bool:
        """Whether an attempt is abandoned, and so may have an unclaimed response that runs."""
        return any(isinstance(item, Abandoned) for item in self.items)

    def alone(self, number: int) -> bool:
        """Whether this attempt runs, and no other one is submitting, unknown or running."""
        live = [item for item in self.items if isinstance(item, Submitting | OutcomeUnknown | Running)]
        return len(live) == 1 and isinstance(live[0], Running) and live[0].number == number

    def running(self) -> tuple[Running, ...]:
        return tuple(item for item in self.items if isinstance(item, Running))

    def dues_ms(self) -> tuple[int, ...]:
        return tuple(
            item.report_by_ms if isinstance(item, Submitting) else item.adopt_by_ms
            for item in self.items
            if isinstance(item, Submitting) or (isinstance(item, OutcomeUnknown) and not item.taken)
        )

    def response_ids(self) -> tuple[str, ...]:
        return tuple(item.response_id for item in self.items if isinstance(item, Running | Over))

    def uncounted(self) -> tuple[str, ...]:
        """Responses whose usage may still be reported after the result."""
        known = (item for item in self.items if isinstance(item, Running | Over))
        return tuple(
            item.response_id for item in known if isinstance(item, Running) or (item.given_up and item.usage is None)
        )

    def status(self) -> Literal["running", "submitting", "unknown"]:
        """The status of the most advanced attempt."""
        if any(isinstance(item, Running) for item in self.items):
            return "running"
        if any(isinstance(item, Submitting) for item in self.items):
            return "submitting"
        return "unknown"

    def briefs(self) -> tuple[AttemptBrief, ...]:
        return tuple(_brief(item) for item in self.items)


def _bounded(items: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    """Drop the oldest of the attempts that ended without usage, beyond `FREE_REMEMBERED_MAX`."""
    if len(items) <= FREE_REMEMBERED_MAX:
        return items
    free = [item for item in items if isinstance(item, Over) and item.usage is None and not item.given_up]
    gone = {item.number for item in free[: max(0, len(free) - FREE_REMEMBERED_MAX)]}
    return tuple(item for item in items if item.number not in gone) if gone else items


def _brief(item: Attempt) -> AttemptBrief:
    match item:
        case Running():
            return AttemptBrief(
                attempt=item.number, outcome="running", response_id=item.response_id, adopted=item.adopted
            )
        case Over():
            return AttemptBrief(
                attempt=item.number,
                outcome=item.status,
                response_id=item.response_id,
                adopted=item.adopted,
                code=item.code,
                usage=item.usage,
            )
        case Submitting() | OutcomeUnknown() | Abandoned():
            return AttemptBrief(attempt=item.number, outcome="unknown")


def total(usages: Iterable[Usage]) -> Usage:
    """The sum of usages, field by field."""
    known = tuple(usages)
    return Usage(**{name: _sum(getattr(usage, name) for usage in known) for name in Usage.model_fields})


def _sum(counts: Iterable[int | None]) -> int | None:
    """None if no count is told."""
    told = [count for count in counts if count is not None]
    return sum(told) if told else None
