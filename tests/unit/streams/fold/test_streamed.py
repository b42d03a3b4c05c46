"""Streaming decides nothing: the folds give the same with and without it, except for the field `stream`."""

from collections.abc import Sequence

import pytest

from schemas.base import Message
from schemas.jobs import AttemptAccepted
from schemas.responses import ResponseClaimed
from streams.fold import response
from streams.fold.rows import encode_response_state
from tests.replay.histories import Refold, record_line
from tests.replay.record import STORIES, Story
from tests.support import builders as b
from tests.support.given_when_then import fold, given


def lived(facts: Sequence[Message], *, streamed: bool) -> list[Message]:
    """All outputs and final rows of both folds, for facts in which all accepted attempts are streamed, or none."""
    refold, waiting = Refold(), list(facts)
    outputs: list[Message] = []
    while waiting:
        fact = waiting.pop(0)
        if isinstance(fact, AttemptAccepted) and not fact.adopted:
            fact = fact.model_copy(update={"stream": True if streamed else None})
        line = record_line(fact)
        done = refold.take(line["log"], line["key"], line["value"].encode())
        outputs += done.outputs
        waiting[:0] = [output for output in done.outputs if output.topic in {"jobs", "responses"}]
    return outputs


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_streamed_job_gives_the_same_as_an_unstreamed_one(story: Story) -> None:
    plain, streamed = (lived(story(), streamed=flag) for flag in (False, True))
    told = [
        output.model_copy(update={"stream": None}) if isinstance(output, ResponseClaimed) else output
        for output in streamed
    ]
    assert told == plain


def test_the_claim_of_a_streamed_attempt_says_that_it_can_be_followed() -> None:
    (claim,) = given(b.submitted()).when(b.accepted(b.T0 + 5, stream=True)).step.outputs
    assert isinstance(claim, ResponseClaimed)
    assert claim.stream is True
    running = fold((claim,))
    assert isinstance(running, response.RunningResponse)
    assert running.claim.stream


def test_a_row_says_nothing_of_streaming_where_there_is_none() -> None:
    assert b"stream" not in encode_response_state(fold((b.claimed(5),)))
    assert b'"stream":true' in encode_response_state(fold((b.claimed(5, stream=True),)))
