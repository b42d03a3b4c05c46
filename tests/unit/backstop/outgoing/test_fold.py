"""The states of a delivery, case by case, and the properties of every log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstop.outgoing.fold import DeliveryEnded, NoDelivery, Pending, State, step
from backstop.outgoing.log import PartitionLog
from schemas.deliveries import DeliveryFact, ResendAsked, ResendDone
from tests.unit.backstop.outgoing.facts import (
    ENDPOINT_ID,
    NOW_MS,
    asked,
    dead,
    done,
    failed,
    numbered,
    pending,
    planned,
)

LATER = NOW_MS + 60_000


@pytest.mark.parametrize(
    ("state", "fact", "after", "ignored"),
    [
        (NoDelivery(), planned(), pending(), None),
        (NoDelivery(), asked(LATER), pending(due_ms=LATER, asked_at_ms=LATER), None),
        (NoDelivery(), failed(3, LATER), pending(3, LATER), None),  # a reader that began after the first facts
        (NoDelivery(), done(1), DeliveryEnded(0), None),
        (pending(), planned(at_ms=LATER), pending(), "repeat"),  # the result was read again
        (pending(), failed(1, LATER), pending(1, LATER), None),
        (pending(2, LATER), failed(2, LATER + 1), pending(2, LATER), "late"),  # another process tried, too
        (pending(2), failed(1, LATER), pending(2), "late"),
        (pending(2), done(1), DeliveryEnded(0), None),  # delivered is delivered, whichever attempt it was
        (pending(9), dead(10), DeliveryEnded(0), None),
        (DeliveryEnded(0), planned(), DeliveryEnded(0), "repeat"),
        (DeliveryEnded(0), failed(4, LATER), DeliveryEnded(0), "late"),
        (DeliveryEnded(0), done(4), DeliveryEnded(0), "late"),
        (DeliveryEnded(0), asked(LATER), pending(due_ms=LATER, asked_at_ms=LATER), None),
        (pending(5, LATER), asked(NOW_MS), pending(asked_at_ms=NOW_MS), None),  # from the first attempt on
        (pending(asked_at_ms=LATER), asked(LATER), pending(asked_at_ms=LATER), "repeat"),
        (pending(asked_at_ms=LATER), asked(NOW_MS), pending(asked_at_ms=LATER), "late"),
        (pending(asked_at_ms=LATER), done(7), pending(asked_at_ms=LATER), "late"),  # of the round before
        (DeliveryEnded(NOW_MS), failed(1, LATER, asked_at_ms=LATER), pending(1, LATER, asked_at_ms=LATER), None),
    ],
)
def test_a_fact_changes_a_delivery_so(state: State, fact: DeliveryFact, after: State, ignored: str | None) -> None:
    found = step(state, fact)
    assert (found.state, found.ignored) == (after, ignored)


ROUNDS = st.sampled_from([0, NOW_MS, LATER])


@st.composite
def facts(draw: st.DrawFn) -> DeliveryFact:
    delivery_id, round_ms, attempt = numbered(draw(st.integers(0, 2))), draw(ROUNDS), draw(st.integers(1, 4))
    kinds = [
        asked(round_ms, delivery_id) if round_ms else planned(delivery_id),
        failed(attempt, NOW_MS + attempt, round_ms, delivery_id),
        done(attempt, round_ms, delivery_id),
        dead(attempt, round_ms, delivery_id),
    ]
    return draw(st.sampled_from(kinds))


@given(st.lists(facts(), max_size=30), st.data())
def test_repeats_change_nothing(log: list[DeliveryFact], data: st.DataObject) -> None:
    once, twice = PartitionLog(), PartitionLog()
    for fact in log:
        once.take(fact, 0)
        twice.take(fact, 0)
        assert twice.take(fact, 0) in {"repeat", "late"}
    assert once.open == twice.open


@given(st.lists(facts(), max_size=30))
def test_a_fold_from_the_checkpoint_knows_all_that_is_open(log: list[DeliveryFact]) -> None:
    whole = PartitionLog()
    for offset, fact in enumerate(log):
        whole.take(fact, offset)
    checkpoint, again = whole.checkpoint(len(log)), PartitionLog()
    for offset in range(checkpoint, len(log)):
        again.take(log[offset], offset)
    # What ended before the checkpoint may be forgotten; of what is open, nothing is.
    assert {key: found[0] for key, found in whole.open.items()}.items() <= {
        key: found[0] for key, found in again.open.items()
    }.items()
    assert checkpoint == len(log) or whole.open


def test_a_checkpoint_waits_for_the_oldest_open_delivery_and_for_an_open_resend() -> None:
    log = PartitionLog()
    log.take(planned(numbered(1)), 10)
    log.take(planned(numbered(2)), 11)
    assert log.checkpoint(20) == 10
    log.take(failed(1, LATER, delivery_id=numbered(1)), 12)
    assert log.checkpoint(20) == 11
    log.take(done(1, delivery_id=numbered(2)), 13)
    log.take(dead(2, delivery_id=numbered(1)), 14)
    log.take_resend(ResendAsked(id="rs", at_ms=1, endpoint_id=ENDPOINT_ID, tenant="acme", since_ms=0, until_ms=1), 15)
    assert log.checkpoint(20) == 15
    log.take_resend(ResendDone(id="rs/done", at_ms=2, resend_id="rs", count=0, complete=True), 16)
    assert log.checkpoint(20) == 20


def test_what_ended_is_remembered_so_that_a_result_read_again_sends_nothing() -> None:
    log = PartitionLog()
    log.take(planned(), 0)
    log.take(done(1), 1)
    assert log.take(planned(), 2) == "repeat"
    assert not log.open


def test_a_state_is_what_it_says() -> None:
    assert isinstance(step(NoDelivery(), planned()).state, Pending)
