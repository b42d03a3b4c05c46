"""A job outlasts its provider's troubles: what it waits for, what it counts, and which response may still win."""

from dataclasses import replace
from typing import Any

import pytest

from schemas.base import InlineBody, Terms, Usage
from schemas.commands import CreateResponse
from schemas.jobs import AttemptEnd
from schemas.results import JobResult, Reason
from streams.fold import job
from streams.fold.attempts import Abandoned, Over, Running, Submitting
from streams.fold.step import Ignored, Step
from tests.support.builders import (
    DEADLINE,
    RESP,
    T0,
    accepted,
    job_timer,
    rejected,
    settled,
    submitted,
    unknown,
)
from tests.support.given_when_then import given, given_state
from tests.unit.streams.fold.cases import AT, GRACE, PAID, UNKNOWN, decided, failed
from tests.unit.streams.fold.states import (
    REPORT_BY,
    active,
    backing_off,
    brief,
    claim_of,
    finished,
    release_of,
    result,
    unheard_of,
    waits,
)


def test_a_refusal_for_the_same_cause_as_the_last_one_waits_longer() -> None:
    down = Reason(code="server_is_overloaded", message="tokens per minute", http_status=429, said_by="provider")
    told: dict[str, Any] = {"cause": "overloaded", "code": "server_is_overloaded"}
    history = given(submitted(), rejected(AT, **told), job_timer(AT + waits("overloaded", refused=1)))
    wait_ms = waits("overloaded", refused=2, streak=2)
    waiting = backing_off(
        AT + 50_000 + wait_ms,
        down,
        last_number=2,
        rejections=2,
        streak=2,
        streak_cause="overloaded",
        cause="overloaded",
    )
    history.when(rejected(AT + 50_000, 2, **told)).then(Step(waiting))


def test_a_closed_lane_counts_nothing() -> None:
    told: dict[str, Any] = {"cause": "held", "code": "invalid_api_key", "message": "no key", "http_status": None}
    why = Reason(code="invalid_api_key", message="no key")
    waiting = backing_off(
        AT + waits("held", told_ms=5_000), why, last_number=1, streak=0, streak_cause=None, cause="held"
    )  # fmt: skip
    given(submitted()).when(rejected(AT, wait_ms=5_000, **told)).then(Step(waiting))


def test_a_refusal_does_not_end_a_job_whose_earlier_attempt_may_still_run() -> None:
    begun = active(Abandoned(1), Submitting(2, T0, REPORT_BY), retries=1, unknowns=1)
    why = Reason(code="invalid_value", message="tokens per minute", http_status=400, said_by="provider")
    waiting = replace(
        backing_off(
            DEADLINE,
            why,
            Abandoned(1),
            last_number=2,
            retries=1,
            unknowns=1,
            rejections=1,
            streak_cause="never",
            cause="never",
        ),
        last=True,
    )
    history = given_state(begun)
    history.when(rejected(AT, 2, cause="never", code="invalid_value", http_status=400)).then(Step(waiting))
    adopted = given_state(waiting).when(accepted(AT + 5, adopted=True))
    running = active(
        Running(1, RESP, AT + 5, True),
        last_number=2,
        unknowns=1,
        rejections=1,
        streak=1,
        streak_cause="never",
    )
    adopted.then(Step(running, (claim_of(AT + 5),)))
    failed_at_last = result("failed", DEADLINE, unheard_of(), reason=why, rejections=1)
    given_state(waiting).when(job_timer(DEADLINE)).then(Step(finished("failed", DEADLINE), (failed_at_last,)))


def test_an_answer_that_proves_nothing_is_a_doubt_and_no_retry() -> None:
    why = UNKNOWN.model_copy(update={"message": f"{UNKNOWN.message}; it was answered: oops"})
    waiting = backing_off(AT + GRACE + waits("faulty"), why, Abandoned(1, True), doubts=1, unknowns=1)
    history = given(submitted(), unknown(AT, answered=True, message="oops"))
    history.when(job_timer(AT + GRACE)).then(Step(waiting))


def test_a_failure_without_usage_uses_up_no_retry_and_waits_as_long_as_it_asked_for() -> None:
    over = Over(1, RESP, "failed", AT, False, "rate_limit_exceeded")
    why = Reason(code="rate_limit_exceeded", message="try again in 20s", said_by="provider")
    waiting = backing_off(AT + 900 + waits("limited", told_ms=20_000, ended=1), why, over, unpaid_ends=1)
    told: dict[str, Any] = {
        "cause": "limited",
        "code": "rate_limit_exceeded",
        "message": "try again in 20s",
        "wait_ms": 20_000,
    }
    given(submitted(), accepted(AT)).when(failed(AT + 900, **told)).then(Step(waiting))


@pytest.mark.parametrize(
    ("usage", "terms", "paid"),
    [
        (None, None, 0), (None, Terms(), 0), (Usage(), Terms(), 0), (Usage(input_tokens=3), Terms(), 1),
        (None, Terms(part_of_usage=True), 1),
    ],
)  # fmt: skip
def test_a_failure_whose_usage_is_told_in_part_was_paid(usage: Usage | None, terms: Terms | None, paid: int) -> None:
    after = given(submitted(), accepted(AT), failed(AT + 900, usage=usage, terms=terms)).state
    assert isinstance(after, job.BackingOff)
    assert (after.attempts.retries, after.attempts.unpaid_ends) == (paid, 1 - paid)


def test_the_end_that_the_create_showed_ends_the_job() -> None:
    end = AttemptEnd(status="completed", response=InlineBody(value={"id": RESP}), usage=PAID)
    expected = result(
        "completed", AT, brief("completed", usage=PAID), found_by="create", response=end.response, usage=PAID,
        timings=decided(AT, AT),
    )  # fmt: skip
    given(submitted()).when(accepted(AT, end=end)).then(Step(finished("completed", AT, RESP), (expected,)))


def test_a_response_given_up_as_missing_is_released_and_wins_after_all() -> None:
    over = Over(1, RESP, "missing", AT, False, "response_missing")
    gone = settled(AT + 900, "missing", code="response_missing")
    waiting = backing_off(AT + 900 + waits("faulty", ended=1), Reason(code="response_missing"), over, retries=1)
    given(submitted(), accepted(AT)).when(gone).then(Step(waiting, (release_of(AT + 900),)))
    expected = result("completed", AT + 990, brief("completed"), found_by="webhook", timings=decided(AT + 990, AT))
    seen = given_state(waiting).when(settled(AT + 990))
    seen.then(Step(finished("completed", AT + 990, RESP), (expected,)))


@pytest.mark.parametrize("status", ["failed", "cancelled", "missing"])
def test_the_end_of_a_response_that_was_given_up_is_no_news(status: Any) -> None:
    waiting = backing_off(AT + 9, Reason(code="response_missing"), Over(1, RESP, "missing", AT, False), retries=1)
    given_state(waiting).when(settled(AT + 990, status)).then_ignored(Ignored.DUPLICATE)


def test_a_stuck_response_is_given_up_while_the_job_may_spend_another_attempt() -> None:
    over = Over(1, RESP, "stuck", AT, False, "response_stuck")
    waiting = backing_off(AT + 900 + waits("faulty", ended=1), Reason(code="response_stuck"), over, retries=1)
    stuck = settled(AT + 900, "stuck", code="response_stuck")
    given(submitted(), accepted(AT)).when(stuck).then(Step(waiting, (release_of(AT + 900),)))
    last = active(Running(3, RESP, AT, False), last_number=3, retries=2)
    given_state(last).when(settled(AT + 900, "stuck", 3)).then_ignored(Ignored.STALE)


def test_all_attempts_are_counted_in_the_tokens_of_the_result() -> None:
    both = active(
        Over(1, "resp_1", "failed", AT, False, "server_error", PAID), Running(2, "resp_2", AT, False), retries=1
    )
    seen = given_state(both).when(settled(AT + 900, attempt=2, response_id="resp_2", usage=Usage(total_tokens=4)))
    briefs = (
        brief("failed", 1, "resp_1", code="server_error", usage=PAID),
        brief("completed", 2, "resp_2", usage=Usage(total_tokens=4)),
    )
    usage = Usage(input_tokens=5, output_tokens=2, total_tokens=11)
    expected = result("completed", AT + 900, *briefs, found_by="webhook", timings=decided(AT + 900, AT), usage=usage)
    seen.then(Step(finished("completed", AT + 900, "resp_1", "resp_2"), (expected,)))


def test_a_later_attempt_asks_for_no_window_that_would_end_after_the_deadline() -> None:
    hour_ms = 3_600_000
    late = given(
        submitted(window_ms=8 * hour_ms, deadline_at_ms=T0 + 9 * hour_ms), rejected(AT + 2 * hour_ms, wait_ms=1)
    )
    due = late.due_ms()
    (command,) = late.when(job_timer(due)).step.outputs
    assert isinstance(command, CreateResponse)
    assert command.soonest is True
    soon = given(submitted(window_ms=2 * hour_ms, deadline_at_ms=T0 + 9 * hour_ms), rejected(AT, wait_ms=1))
    (command,) = soon.when(job_timer(soon.due_ms())).step.outputs
    assert isinstance(command, CreateResponse)
    assert command.soonest is None


@pytest.mark.parametrize(
    ("status", "said_by", "told"),
    [
        ("failed", None, "provider"),
        ("missing", "backstop", None),
        ("incomplete", "backstop", None),
    ],
)
def test_the_reason_is_said_by_the_provider_only_in_the_providers_own_words(
    status: Any, said_by: Any, told: str | None
) -> None:
    event = settled(AT + 900, status, code="x", cause="never", message="in these words", said_by=said_by)
    last = active(Running(3, RESP, AT, False), last_number=3, retries=2)
    ended = given_state(last).when(event.model_copy(update={"attempt": 3})).step.outputs[0]
    assert isinstance(ended, JobResult)
    assert ended.reason is not None
    assert ended.reason.message.startswith("in these words")
    assert ended.reason.said_by == told


def test_a_refusal_without_words_is_said_by_none() -> None:
    refused = rejected(AT, cause="never", code="http_400", message="", http_status=400)
    (ended,) = given(submitted()).when(refused).step.outputs
    assert isinstance(ended, JobResult)
    assert ended.reason == Reason(code="http_400", http_status=400)
