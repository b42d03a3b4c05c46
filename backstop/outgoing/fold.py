"""PURE: the states of a delivery, and `step`.

The rules:
1. Each record carries the whole delivery, so a reader may begin anywhere: what it has not heard of is as the next record says.
2. A delivery has rounds: the first is the result's own (`asked_at_ms` 0), each further one was asked for by hand, at a later time. A fact
   of an earlier round changes nothing; one of a later round begins anew.
3. Within a round attempts count upwards. Two processes may try at the same time (a partition moved): the first fact of an attempt is
   taken, but a delivery ends a round whichever attempt it was.
4. What has ended stays so within its round.

A crash between an attempt and its fact leaves the delivery due: it is sent again, under the same id.
"""

from dataclasses import dataclass
from typing import Literal, assert_never

from schemas.deliveries import (
    Delivery,
    DeliveryAsked,
    DeliveryDead,
    DeliveryDone,
    DeliveryFact,
    DeliveryFailed,
    DeliveryPlanned,
)


@dataclass(frozen=True, slots=True)
class Absent:
    """Never heard of, or forgotten."""


@dataclass(frozen=True, slots=True)
class Pending:
    """To be sent at `due_ms`; `attempts` were made in this round."""

    delivery: Delivery
    asked_at_ms: int
    attempts: int
    due_ms: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Delivered, or given up."""

    asked_at_ms: int


State = Absent | Pending | Ended
Ignored = Literal["repeat", "late"]


@dataclass(frozen=True, slots=True)
class Step:
    state: State
    ignored: Ignored | None = None


def step(state: State, fact: DeliveryFact) -> Step:
    """Fold one fact of a delivery. Total: what no longer matters is a no-op that says so."""
    match state:
        case Absent():
            return Step(_as_told(fact))
        case Pending() | Ended():
            if fact.asked_at_ms > state.asked_at_ms:
                return Step(_as_told(fact))
            if fact.asked_at_ms < state.asked_at_ms:
                return Step(state, "late")
            return _within_round(state, fact)
        case _:
            assert_never(state)


def _within_round(state: Pending | Ended, fact: DeliveryFact) -> Step:
    match fact:
        case DeliveryPlanned() | DeliveryAsked():
            return Step(state, "repeat")
        case DeliveryFailed():
            if isinstance(state, Pending) and fact.attempt > state.attempts:
                return Step(_as_told(fact))
            return Step(state, "late")
        case DeliveryDone() | DeliveryDead():
            return Step(_as_told(fact)) if isinstance(state, Pending) else Step(state, "late")
        case _:
            assert_never(fact)


def _as_told(fact: DeliveryFact) -> Pending | Ended:
    match fact:
        case DeliveryPlanned() | DeliveryAsked():
            return Pending(fact.delivery, fact.asked_at_ms, 0, fact.at_ms)
        case DeliveryFailed():
            return Pending(fact.delivery, fact.asked_at_ms, fact.attempt, fact.next_at_ms)
        case DeliveryDone() | DeliveryDead():
            return Ended(fact.asked_at_ms)
        case _:
            assert_never(fact)
