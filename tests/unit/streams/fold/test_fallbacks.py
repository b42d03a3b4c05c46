"""Fallbacks of a job: when one is taken, with what its attempts go out, and what the result says."""

from typing import Any

import pytest

from schemas.base import InlineBody
from schemas.commands import CreateResponse
from schemas.fallbacks import Fallback, FallbackBrief, FallbackRule, Fallbacks, asked_instead, fallbacks_of
from schemas.jobs import AttemptEnd, FallbackTaken, Turn
from schemas.results import JobResult
from schemas.spend_caps import SpendCap
from streams.fold import job
from streams.fold.rows import decode_job_state, encode_job_state
from streams.fold.step import Ignored, Step
from tests.support.builders import (
    DEADLINE,
    MODEL,
    T0,
    accepted,
    admitted,
    fallback_taken,
    job_timer,
    rejected,
    settled,
    submitted,
)
from tests.support.given_when_then import fold, given

TO = (Fallback(model="model-2"), Fallback(model="model-3", service_tier="default"))
GIVEN: Any = submitted(fallback=Fallbacks(to=TO, after_ms=60_000))
NEVER = rejected(T0 + 10, cause="never", code="model_not_found", message="There is no such model.", http_status=404)


def create(step: Step[Any]) -> CreateResponse:
    (command,) = [output for output in step.outputs if isinstance(output, CreateResponse)]
    return command


def test_a_refusal_for_good_is_followed_by_an_attempt_with_the_next_model() -> None:
    waits = given(GIVEN).when(NEVER).step
    assert isinstance(waits.state, job.BackingOff)
    assert waits.outputs == ()
    begun = given(GIVEN, NEVER).when(job_timer(waits.state.retry_at_ms)).step
    command = create(begun)
    assert (command.attempt, command.model, command.instead) == (2, "model-2", TO[0])
    again = rejected(T0 + 30, attempt=2, cause="never", code="model_not_found", http_status=404)
    state = fold([GIVEN, NEVER, job_timer(waits.state.retry_at_ms), again])
    third = create(
        given(GIVEN, NEVER, job_timer(waits.state.retry_at_ms), again).when(job_timer(state.retry_at_ms)).step
    )
    assert (third.attempt, third.model, third.instead) == (3, "model-3", TO[1])
    events = [GIVEN, NEVER, job_timer(waits.state.retry_at_ms), again, job_timer(state.retry_at_ms)]
    last = rejected(T0 + 50, attempt=3, cause="never", code="model_not_found", http_status=404)
    end = given(*events).when(last).step
    assert isinstance(end.outputs[0], JobResult), "no fallback is left"
    assert end.outputs[0].outcome == "failed"


UNUSABLE = AttemptEnd(status="failed", cause="never", code="unusable_id", response=InlineBody(value={}))


@pytest.mark.parametrize("facts", [
    (accepted(T0 + 500), settled(T0 + 600_000, "missing", cause="never", code="response_missing")),
    (accepted(T0 + 500, end=UNUSABLE),),
])  # fmt: skip
def test_a_create_that_was_taken_and_can_not_be_read_is_not_paid_again_with_another_model(facts: Any) -> None:
    end = given(GIVEN, *facts[:-1]).when(facts[-1]).step
    assert isinstance(end.state, job.Finished)
    assert isinstance(end.outputs[0], JobResult)
    assert (end.outputs[0].outcome, end.outputs[0].fallbacks) == ("failed", None)


def test_the_result_says_which_model_answered_and_why() -> None:
    state = fold([GIVEN, NEVER])
    events = [GIVEN, NEVER, job_timer(state.retry_at_ms), accepted(T0 + 40, 2)]
    result = given(*events).when(settled(T0 + 60, attempt=2)).step.outputs[0]
    assert isinstance(result, JobResult)
    assert result.model == "model-2"
    assert result.fallbacks == (
        FallbackBrief(
            model="model-2", instead_of=MODEL, from_attempt=2, why="refused",
            message="model_not_found There is no such model.",
        ),
    )  # fmt: skip
    assert [brief.model for brief in result.attempts] == ["model-2"]


def test_an_attempt_of_the_model_before_that_turns_up_and_wins_is_told_with_its_model() -> None:
    grace = fold([GIVEN])
    report_ms = job.due_ms(grace)
    assert report_ms is not None
    unknown = fold([GIVEN, job_timer(report_ms)])
    abandon_ms = job.due_ms(unknown)
    assert abandon_ms is not None
    events = [GIVEN, job_timer(report_ms), job_timer(abandon_ms), fallback_taken(abandon_ms + 1)]
    state = fold(events)
    assert isinstance(state, job.BackingOff)
    assert state.spec.model == "model-2"
    events += [job_timer(state.retry_at_ms), accepted(state.retry_at_ms + 5, 1, adopted=True)]
    result = given(*events).when(settled(state.retry_at_ms + 9, attempt=1)).step.outputs[0]
    assert isinstance(result, JobResult)
    assert (result.model, [brief.model for brief in result.attempts]) == (MODEL, [None, "model-2"])


@pytest.mark.parametrize("turn", [None, Turn(waits=True)])
def test_a_lane_that_stays_closed_is_left_by_a_fact(turn: Turn | None) -> None:
    job_facts: list[Any] = [GIVEN.model_copy(update={"turn": turn})]
    if turn is None:
        job_facts.append(rejected(T0 + 10, cause="account", code="invalid_api_key", http_status=401))
    before = fold(job_facts)
    step = given(*job_facts).when(fallback_taken(T0 + 70_000)).step
    assert step.outputs == ()
    assert (step.state.spec.model, step.state.spec.fell[0].why) == ("model-2", "lane")
    assert job.due_ms(step.state) == job.due_ms(before), "it waits for its turn with the other model, as it did"
    begins = admitted(T0 + 70_010) if turn is not None else job_timer(before.retry_at_ms, T0 + 70_010)
    command = create(given(*job_facts, fallback_taken(T0 + 70_000)).when(begins).step)
    assert (command.model, command.instead) == ("model-2", TO[0])


@pytest.mark.parametrize(
    ("facts", "event"),
    [
        ([GIVEN], fallback_taken(T0 + 70_000)),  # An attempt is on its way.
        (
            [submitted(), NEVER.model_copy(update={"cause": "limited"})],
            fallback_taken(T0 + 70_000),
        ),  # No fallback was named.
        ([GIVEN, NEVER.model_copy(update={"cause": "limited"})], fallback_taken(T0 + 70_000, 2)),
        (
            [GIVEN, NEVER.model_copy(update={"cause": "limited"}), fallback_taken(T0 + 70_000)],
            fallback_taken(T0 + 70_001),
        ),  # Twice.
        ([GIVEN, NEVER.model_copy(update={"cause": "limited"})], fallback_taken(DEADLINE)),
    ],
)
def test_a_fallback_that_is_not_expected_changes_nothing(facts: list[Any], event: FallbackTaken) -> None:
    given(*facts).when(event).then_ignored(Ignored.STALE)


def test_what_is_spent_and_what_passes_by_itself_take_no_fallback() -> None:
    passing = given(GIVEN).when(rejected(T0 + 10, cause="limited")).step
    assert passing.state.spec.fell == ()
    none_left = GIVEN.model_copy(update={"policy": GIVEN.policy.model_copy(update={"retries_max": 0})})
    end = given(none_left, accepted(T0 + 10)).when(settled(T0 + 20, "missing")).step
    assert isinstance(end.outputs[0], JobResult), "retries that are used up are not granted anew by a fallback"
    cap = SpendCap(tokens_max=300, input_tokens=100, output_tokens=400)
    capped = GIVEN.model_copy(update={"cap": cap})
    assert given(capped).when(NEVER).step.state.spec.fell != (), "nothing is spent yet"


def test_rows_of_jobs_with_fallbacks_come_back_as_they_were() -> None:
    for facts in (
        [GIVEN],
        [GIVEN, NEVER],
        [GIVEN.model_copy(update={"turn": Turn(waits=True)}), fallback_taken(T0 + 9_000)],
    ):
        state = fold(facts)
        assert decode_job_state(encode_job_state(state)) == state
    row = encode_job_state(fold([submitted(turn=Turn(waits=True))]))
    assert b"fallback" not in row
    assert b"fell" not in row


def test_a_rule_of_the_operator_fits_by_a_pattern_and_the_first_one_wins() -> None:
    rules = [
        FallbackRule.model_validate({"model": "gpt-6-*", "to": [{"model": "gpt-5.2"}], "after_ms": 5_000}),
        FallbackRule.model_validate({"model": "*", "to": [{"model": "gpt-5"}]}),
    ]
    assert fallbacks_of(rules, "gpt-6-sol") == Fallbacks(to=(rules[0].to[0],), after_ms=5_000)
    assert fallbacks_of(rules[:1], "gpt-5") is None


def test_only_the_model_and_the_tier_of_a_request_change() -> None:
    request = {"model": "a", "input": "x", "service_tier": "flex"}
    assert asked_instead(request, TO[0]) == {**request, "model": "model-2"}
    assert asked_instead(request, TO[1]) == {**request, "model": "model-3", "service_tier": "default"}
