"""A webhook makes a poll of its own, even beside another poll: that one may be from before the end, or never report."""

import pytest

from schemas.commands import RetrieveResponse
from streams.fold.response import RunningResponse
from tests.support.builders import RESP, T0, claimed, response_timer, webhook
from tests.support.given_when_then import fold, fold_one

APART_MS = 5_000


@pytest.mark.parametrize("polls", [1, 2, 5])
def test_a_webhook_makes_a_poll_while_a_timers_poll_is_on_its_way(polls: int) -> None:
    state = fold((claimed(T0),))
    for _ in range(polls):
        due = state.poll_at_ms
        step = fold_one(state, response_timer(due, next_poll_at_ms=due + APART_MS))
        assert [output.reason for output in step.outputs if isinstance(output, RetrieveResponse)] == ["timer"]
        state = step.state
    with_webhook = fold_one(state, webhook(due + 1))
    assert isinstance(with_webhook.state, RunningResponse)
    (output,) = with_webhook.outputs
    assert isinstance(output, RetrieveResponse)
    assert (output.key, output.reason) == (RESP, "webhook")
