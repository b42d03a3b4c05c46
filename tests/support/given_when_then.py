"""`given(*facts).when(fact).then(Step(...))`: a fold's case, compared whole.

`given` folds its facts from the beginning and does not look at what comes out; `when` folds one more; `then` compares
the whole step. Where no history leads to the state shortly, `given_state` starts from the state itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.base import Message
from schemas.responses import ResponseClaimed
from streams.fold import job, response
from streams.fold.step import Ignored, Step

State = job.JobState | response.ResponseState


@dataclass(frozen=True)
class Seen:
    """What the fact under test did."""

    before: State
    step: Step[Any]

    def then(self, expected: Step[Any]) -> None:
        assert self.step == expected, f"\nexpected {expected}\nbut got  {self.step}"

    def then_ignored(self, reason: Ignored) -> None:
        """Nothing changed, nothing came out, and it says why."""
        self.then(Step(self.before, ignored=reason))


@dataclass(frozen=True)
class Given:
    state: State

    def when(self, event: Message) -> Seen:
        return Seen(self.state, fold_one(self.state, event))

    def due_ms(self) -> int:
        """When the state wants to be woken."""
        due = job.due_ms(self.state) if isinstance(self.state, job.JobState) else response.due_ms(self.state)
        assert due is not None
        return due


def given(first: Message, *rest: Message) -> Given:
    return Given(fold((first, *rest)))


def given_state(state: State) -> Given:
    return Given(state)


def fold(events: Sequence[Message]) -> Any:
    """The state after these facts, all of one job or all of one response."""
    state: State = response.AbsentResponse() if events[0].topic == ResponseClaimed.topic else job.Absent()
    for event in events:
        state = fold_one(state, event).state
    return state


def fold_one(state: Any, event: Any) -> Step[Any]:
    """By the fold whose log the fact belongs to."""
    return response.step(state, event) if event.topic == ResponseClaimed.topic else job.step(state, event)
