"""PURE: the states of a delivery, and `step`.

The rules:
1. Each record carries the whole delivery, so a reader may begin anywhere: an unknown delivery gets the state that the
record implies.
2. A delivery has rounds: the first follows from the result (`asked_at_ms` 0), each further one from a later request. A
fact of an earlier round changes nothing; a fact of a later round begins anew.
3. Within a round attempts count upwards. Two processes may attempt at the same time (a partition moved): the first fact
of an attempt counts, but a `DeliveryDone` or `DeliveryDead` ends the round whichever attempt it reports.
4. An ended round stays ended.

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
class NoDelivery:
    """No fact read, or forgotten."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Due at `due_ms`; `attempts` counts those made in this round."""

    delivery: Delivery
    asked_at_ms: int
    attempts: int
    due_ms: int


@dataclass(frozen=True, slots=True)
class DeliveryEnded:
    """Delivered, or abandoned."""

    asked_at_ms: int


State = NoDelivery | Pending | DeliveryEnded
Ignored = Literal["repeat", "late"]


@dataclass(frozen=True, slots=True)
class DeliveryStep:
    state: State
    ignored: Ignored | None = None


def step(state: State, fact: DeliveryFact) -> DeliveryStep:
    """Fold one fact of a delivery. Total: a fact that no longer matters changes nothing, and `ignored` says why."""
    match state:
        case NoDelivery():
            return DeliveryStep(_as_told(fact))
        case Pending() | DeliveryEnded():
            if fact.asked_at_ms > state.asked_at_ms:
                return DeliveryStep(_as_told(fact))
            if fact.asked_at_ms < state.asked_at_ms:
                return DeliveryStep(state, "late")
            return _within_round(state, fact)
        case _:
            assert_never(state)


def _within_round(state: Pending | DeliveryEnded, fact: DeliveryFact) -> DeliveryStep:
    match fact:
        case DeliveryPlanned() | DeliveryAsked():
            return DeliveryStep(state, "repeat")
        case DeliveryFailed():
            if isinstance(state, Pending) and fact.attempt > state.attempts:
                return DeliveryStep(_as_told(fact))
            return DeliveryStep(state, "late")
        case DeliveryDone() | DeliveryDead():
            return DeliveryStep(_as_told(fact)) if isinstance(state, Pending) else DeliveryStep(state, "late")
        case _:
            assert_never(fact)


def _as_told(fact: DeliveryFact) -> Pending | DeliveryEnded:
    match fact:
        case DeliveryPlanned() | DeliveryAsked():
            return Pending(fact.delivery, fact.asked_at_ms, 0, fact.at_ms)
        case DeliveryFailed():
            return Pending(fact.delivery, fact.asked_at_ms, fact.attempt, fact.next_at_ms)
        case DeliveryDone() | DeliveryDead():
            return DeliveryEnded(fact.asked_at_ms)
        case _:
            assert_never(fact)
