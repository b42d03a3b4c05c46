"""The attempts of one job: one frozen class a state, and the little arithmetic on them. Pure."""

from dataclasses import dataclass, replace
from typing import Literal

from schemas.jobs import SettledStatus
from schemas.results import AttemptBrief


@dataclass(frozen=True, slots=True)
class Submitting:
    """The command is out; no word yet."""

    number: int
    since_ms: int
    word_by_ms: int
    kind: Literal["submitting"] = "submitting"


@dataclass(frozen=True, slots=True)
class Unheard:
    """Its outcome is unknown; a webhook may bring it back until `adopt_by_ms`."""

    number: int
    adopt_by_ms: int
    kind: Literal["unheard"] = "unheard"


@dataclass(frozen=True, slots=True)
class Running:
    number: int
    response_id: str
    accepted_at_ms: int
    adopted: bool
    kind: Literal["running"] = "running"


@dataclass(frozen=True, slots=True)
class Lost:
    """Unknown, and given up on: its successor is granted. It may still turn up."""

    number: int
    kind: Literal["lost"] = "lost"


@dataclass(frozen=True, slots=True)
class Over:
    number: int
    response_id: str
    status: SettledStatus
    accepted_at_ms: int
    adopted: bool
    kind: Literal["over"] = "over"


Attempt = Submitting | Unheard | Running | Lost | Over


@dataclass(frozen=True, slots=True)
class Attempts:
    """In order of their numbers. Rejected attempts leave the list and are counted, as they made no response: so its length is
    bounded by the retries granted.
    """

    items: tuple[Attempt, ...] = ()
    last_number: int = 0
    retries: int = 0
    rejections: int = 0
    unknowns: int = 0

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
        """Replace the attempt of that number."""
        unknowns = self.unknowns + (1 if isinstance(attempt, Unheard) else 0)
        items = tuple(attempt if item.number == attempt.number else item for item in self.items)
        return replace(self, items=items, unknowns=unknowns)

    def reject(self, number: int) -> "Attempts":
        items = tuple(item for item in self.items if item.number != number)
        return replace(self, items=items, rejections=self.rejections + 1)

    def count_retry(self) -> "Attempts":
        return replace(self, retries=self.retries + 1)

    def expire(self, due_ms: int, adopt_by_ms: int) -> "Attempts":
        """No word in time: unheard until `adopt_by_ms`. Not brought back in time: lost."""
        changed = self
        for item in self.items:
            match item:
                case Submitting() if item.word_by_ms <= due_ms:
                    changed = changed.put(Unheard(item.number, adopt_by_ms))
                case Unheard() if item.adopt_by_ms <= due_ms:
                    changed = changed.put(Lost(item.number))
                case _:
                    pass
        return changed

    def live(self) -> bool:
        return any(isinstance(item, Submitting | Unheard | Running) for item in self.items)

    def running(self) -> tuple[Running, ...]:
        return tuple(item for item in self.items if isinstance(item, Running))

    def dues_ms(self) -> tuple[int, ...]:
        waiting = (item for item in self.items if isinstance(item, Submitting | Unheard))
        return tuple(item.word_by_ms if isinstance(item, Submitting) else item.adopt_by_ms for item in waiting)

    def response_ids(self) -> tuple[str, ...]:
        return tuple(item.response_id for item in self.items if isinstance(item, Running | Over))

    def status(self) -> Literal["running", "submitting", "unknown"]:
        """Of the attempt that is furthest on."""
        if any(isinstance(item, Running) for item in self.items):
            return "running"
        if any(isinstance(item, Submitting) for item in self.items):
            return "submitting"
        return "unknown"

    def briefs(self) -> tuple[AttemptBrief, ...]:
        return tuple(_brief(item) for item in self.items)


def _brief(item: Attempt) -> AttemptBrief:
    match item:
        case Running():
            return AttemptBrief(
                attempt=item.number, outcome="running", response_id=item.response_id, adopted=item.adopted
            )
        case Over():
            return AttemptBrief(
                attempt=item.number, outcome=item.status, response_id=item.response_id, adopted=item.adopted
            )
        case Submitting() | Unheard() | Lost():
            return AttemptBrief(attempt=item.number, outcome="unknown")
