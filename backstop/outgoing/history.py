"""PURE: the state of deliveries for people, one line each, from their facts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, assert_never

from backstop.outgoing.fold import NoDelivery, State, step
from schemas.deliveries import (
    DeliveryAsked,
    DeliveryDead,
    DeliveryDone,
    DeliveryFact,
    DeliveryFailed,
    DeliveryPlanned,
)


@dataclass(frozen=True, slots=True)
class DeliveryLine:
    """`attempt`: attempts in this round. `because`: why the last one failed, or why the delivery was abandoned."""

    delivery_id: str
    endpoint_id: str
    tenant: str
    response_id: str
    event_type: str
    state: Literal["pending", "delivered", "dead"]
    attempt: int
    at_ms: int
    status: int | None = None
    because: str | None = None
    next_at_ms: int | None = None


def lines(facts: Iterable[DeliveryFact]) -> list[DeliveryLine]:
    """One line per delivery, by the time of its last fact. The facts of one delivery must be in log order."""
    states: dict[str, State] = {}
    found: dict[str, DeliveryLine] = {}
    for fact in facts:
        done = step(states.get(fact.delivery_id, NoDelivery()), fact)
        if done.ignored is None:
            states[fact.delivery_id] = done.state
            found[fact.delivery_id] = _line(fact)
    return sorted(found.values(), key=lambda line: (line.at_ms, line.delivery_id))


def _line(fact: DeliveryFact) -> DeliveryLine:
    of, at_ms = fact.delivery, fact.at_ms
    named = (fact.delivery_id, of.endpoint_id, of.tenant, of.response_id, of.event_type)
    match fact:
        case DeliveryPlanned() | DeliveryAsked():
            return DeliveryLine(*named, "pending", 0, at_ms, next_at_ms=at_ms)
        case DeliveryFailed():
            return DeliveryLine(*named, "pending", fact.attempt, at_ms, fact.status, fact.failed_by, fact.next_at_ms)
        case DeliveryDone():
            return DeliveryLine(*named, "delivered", fact.attempt, at_ms, fact.status)
        case DeliveryDead():
            because = fact.dead_by if fact.failed_by is None else f"{fact.dead_by}: {fact.failed_by}"
            return DeliveryLine(*named, "dead", fact.attempt, at_ms, fact.status, because)
        case _:
            assert_never(fact)
