"""The delivery lines that operators see."""

from backstop.outgoing.history import lines
from tests.unit.backstop.outgoing.facts import (
    DELIVERY_ID,
    ENDPOINT_ID,
    NOW_MS,
    asked,
    dead,
    done,
    failed,
    numbered,
    planned,
)

LATER = NOW_MS + 60_000


def test_a_delivery_is_one_line_that_says_how_it_stands() -> None:
    (line,) = lines([planned(), failed(1, LATER), planned()])
    assert (line.delivery_id, line.endpoint_id, line.tenant, line.response_id) == (
        DELIVERY_ID, ENDPOINT_ID, "acme", "resp_1",
    )  # fmt: skip
    assert (line.state, line.attempt, line.status, line.because, line.next_at_ms) == (
        "pending",
        1,
        500,
        "status",
        LATER,
    )
    (line,) = lines([planned(), failed(1, LATER), done(2), failed(2, LATER)])
    assert (line.state, line.attempt, line.status, line.next_at_ms) == ("delivered", 2, 200, None)
    (line,) = lines([failed(9, LATER), dead(10)])
    assert (line.state, line.attempt, line.because) == ("dead", 10, "gave_up: timeout")
    (line,) = lines([dead(10), asked(LATER)])
    assert (line.state, line.attempt, line.next_at_ms) == ("pending", 0, LATER)


def test_what_happened_last_comes_last() -> None:
    found = lines([planned(numbered(1), NOW_MS + 2), planned(numbered(2), NOW_MS + 1)])
    assert [line.delivery_id for line in found] == [numbered(2), numbered(1)]
