"""The response fold, case by case, beyond the matrix of states and facts."""

from dataclasses import replace
from typing import Any, Literal

import pytest

from schemas.base import InlineBody, Usage
from schemas.commands import CancelResponse, RetrieveResponse
from schemas.jobs import AttemptSettled
from streams.fold.response import (
    ODD_PATIENCE_MS,
    UNCLAIMED_POLLS_MAX,
    AbsentResponse,
    Ended,
    ReceivedWebhooks,
    ResponseState,
    RunningResponse,
    SeenSoFar,
    Unclaimed,
    due_ms,
)
from streams.fold.response_states import WEBHOOKS_REMEMBERED_MAX
from streams.fold.step import Ignored, Step
from tests.support.builders import (
    DEADLINE,
    FORGET_AFTER,
    JOB,
    POLICY,
    RESP,
    T0,
    claimed,
    observed,
    poll_failed,
    released,
    response_timer,
    settled,
    webhook,
)
from tests.support.given_when_then import fold, fold_one, given, given_state
from tests.unit.streams.fold.states import CLAIM_AT, claim, offer, poll, webhooks

GRACE_ENDS = CLAIM_AT + POLICY.missing_grace_ms
LAST_POLL = DEADLINE - 10_000
AT = CLAIM_AT + 1_000
PATIENCE = POLICY.missing_patience_ms


def test_the_content_of_a_webhook_settles_nothing() -> None:
    with_webhook = RunningResponse(claim(), CLAIM_AT + 20_000, polls=1, webhooks=webhooks(T0 + 200))
    claims_failure = webhook(T0 + 200, event_type="response.failed", raw='{"type":"response.failed"}')
    given(claimed(CLAIM_AT)).when(claims_failure).then(Step(with_webhook, (poll(T0 + 200, "wh_1", "webhook"),)))


def test_a_webhook_of_an_unknown_type_makes_a_poll_too() -> None:
    with_webhook = RunningResponse(claim(), CLAIM_AT + 20_000, polls=1, webhooks=webhooks(T0 + 200))
    odd = webhook(T0 + 200, event_type="response.dreamt")
    given(claimed(CLAIM_AT)).when(odd).then(Step(with_webhook, (poll(T0 + 200, "wh_1", "webhook"),)))


def test_a_second_webhook_of_another_id_makes_a_second_poll_that_counts_on() -> None:
    seen = given(claimed(CLAIM_AT), webhook(T0 + 200)).when(webhook(T0 + 300, "wh_2"))
    with_webhook = RunningResponse(claim(), CLAIM_AT + 20_000, polls=2, webhooks=webhooks(T0 + 200, "wh_1", "wh_2"))
    seen.then(Step(with_webhook, (poll(T0 + 300, "wh_2", "webhook", polls=1),)))


def test_a_repeated_webhook_before_and_after_the_claim_is_known_as_one() -> None:
    given(webhook(T0), claimed(CLAIM_AT)).when(webhook(T0 + 500)).then_ignored(Ignored.DUPLICATE)


def test_more_webhooks_than_are_remembered_cost_one_poll_each_and_no_room() -> None:
    many = [webhook(T0 + 200 + n, f"wh_{n}") for n in range(WEBHOOKS_REMEMBERED_MAX)]
    kept = (*(f"wh_{n}" for n in range(1, WEBHOOKS_REMEMBERED_MAX)), "wh_more")
    expected = RunningResponse(
        claim(),
        CLAIM_AT + 20_000,
        polls=WEBHOOKS_REMEMBERED_MAX + 1,
        webhooks=ReceivedWebhooks(kept, first_at_ms=T0 + 200),
    )
    seen = given(claimed(CLAIM_AT), *many).when(webhook(T0 + 900, "wh_more"))
    seen.then(Step(expected, (poll(T0 + 900, "wh_more", "webhook", polls=WEBHOOKS_REMEMBERED_MAX),)))


def test_an_end_after_a_webhook_was_found_by_it_and_carries_its_times() -> None:
    history = given(webhook(T0, ended_at_ms=T0 - 700), claimed(CLAIM_AT))
    seen = history.when(observed(T0 + 300))
    end = settled(T0 + 300, found_by="webhook", polls=1, webhook_at_ms=T0, provider_ended_at_ms=T0 - 700)
    seen.then(Step(Ended(claim(), "completed", T0 + 300 + FORGET_AFTER), (end,)))


@pytest.mark.parametrize("status", ["completed", "failed", "incomplete", "cancelled"])
def test_each_terminal_status_settles_the_attempt_with_what_was_seen(
    status: Literal["completed", "failed", "incomplete", "cancelled"],
) -> None:
    body, usage = InlineBody(value={"id": RESP}), Usage(total_tokens=7)
    poll_saw = observed(
        T0 + 300, status, response=body, usage=usage, cause="faulty", code="server_error", message="again please",
        provider_created_at_ms=T0, provider_ended_at_ms=T0 + 299,
    )  # fmt: skip
    end = settled(
        T0 + 300, status, found_by="poll", polls=0, response=body, usage=usage, cause="faulty", code="server_error",
        message="again please", provider_created_at_ms=T0, provider_ended_at_ms=T0 + 299,
    )  # fmt: skip
    given(claimed(CLAIM_AT)).when(poll_saw).then(Step(Ended(claim(), status, T0 + 300 + FORGET_AFTER), (end,)))


def test_cancelled_and_then_completed_is_settled_once() -> None:
    given(claimed(CLAIM_AT), observed(T0 + 300, "cancelled")).when(observed(T0 + 400)).then_ignored(Ignored.LATE)


def test_a_status_that_goes_back_after_the_end_is_late() -> None:
    given(claimed(CLAIM_AT), observed(T0 + 300)).when(observed(T0 + 400, "running")).then_ignored(Ignored.LATE)


def test_a_404_within_the_grace_means_not_yet() -> None:
    seen = given(claimed(CLAIM_AT)).when(observed(GRACE_ENDS - 1, "missing", next_poll_at_ms=CLAIM_AT + 5_000))
    seen.then(Step(RunningResponse(claim(), CLAIM_AT + 5_000)))


def test_one_404_after_the_grace_is_asked_again_and_any_other_answer_begins_anew() -> None:
    seen = given(claimed(CLAIM_AT)).when(observed(GRACE_ENDS, "missing"))
    seen.then(Step(RunningResponse(claim(), CLAIM_AT + 20_000, sight=SeenSoFar(missing_since_ms=GRACE_ENDS))))
    again = given(
        claimed(CLAIM_AT), observed(GRACE_ENDS, "missing"), observed(GRACE_ENDS + 5, "running", raw_status="queued")
    )
    again.when(observed(GRACE_ENDS + PATIENCE + 5, "missing")).then(
        Step(
            RunningResponse(claim(), CLAIM_AT + 20_000, sight=SeenSoFar("queued", CLAIM_AT, GRACE_ENDS + PATIENCE + 5))
        )
    )


def test_404s_without_a_break_are_reported_to_the_job_once_and_a_later_end_too() -> None:
    last_ms = GRACE_ENDS + PATIENCE
    told = settled(
        last_ms, "missing", id=f"{RESP}/missing", found_by="poll", polls=0, cause="faulty", code="response_missing",
        message=f"it was answered with 404 for {PATIENCE} ms", said_by="backstop",
    )  # fmt: skip
    after = RunningResponse(claim(), CLAIM_AT + 20_000, sight=SeenSoFar(missing_since_ms=GRACE_ENDS, told="missing"))
    history = given(claimed(CLAIM_AT), observed(GRACE_ENDS, "missing"))
    history.when(observed(last_ms - 1, "missing")).then_ignored(Ignored.STALE)
    history.when(observed(last_ms, "missing")).then(Step(after, (told,)))
    given_state(after).when(observed(last_ms + 5, "missing")).then_ignored(Ignored.STALE)
    end = settled(last_ms + 9, found_by="poll", polls=0)
    given_state(after).when(observed(last_ms + 9)).then(
        Step(Ended(claim(), "completed", last_ms + 9 + FORGET_AFTER), (end,))
    )


def test_a_404_of_a_released_response_is_its_end() -> None:
    history = given(claimed(CLAIM_AT), released(CLAIM_AT + 5))
    (told,) = history.when(observed(GRACE_ENDS, "missing")).step.outputs
    assert isinstance(told, AttemptSettled)
    assert told.status == "missing"


def test_an_unknown_status_is_settled_as_incomplete_after_a_while() -> None:
    history = given(claimed(CLAIM_AT), observed(AT, "odd", raw_status="of_tomorrow"))
    history.when(observed(AT + ODD_PATIENCE_MS - 1, "odd", raw_status="of_tomorrow")).then_ignored(Ignored.STALE)
    seen = history.when(observed(AT + ODD_PATIENCE_MS, "odd", raw_status="of_tomorrow"))
    (told,) = seen.step.outputs
    assert isinstance(told, AttemptSettled)
    assert (told.status, told.code) == ("incomplete", "unknown_status")
    assert "of_tomorrow" in (told.message or "")
    assert told.said_by == "backstop"
    named = {"code": "answer_too_large", "message": "too large", "said_by": "backstop"}
    (told,) = history.when(observed(AT + ODD_PATIENCE_MS, "odd", raw_status="of_tomorrow", **named)).step.outputs
    assert isinstance(told, AttemptSettled)
    assert (told.status, told.code, told.message, told.said_by) == ("incomplete", *named.values())
    moved = history.when(observed(AT + ODD_PATIENCE_MS, "odd", raw_status="of_the_day_after"))
    assert not moved.step.outputs


STUCK_MS = 60_000


@pytest.mark.parametrize(
    ("after_ms", "others_ended_at_ms", "stuck"),
    [
        (STUCK_MS - 1, AT, False),
        (STUCK_MS, AT, True),
        (STUCK_MS, None, False),
        (STUCK_MS, CLAIM_AT - 1, False),
        (3 * STUCK_MS - 1, None, False),
        (3 * STUCK_MS, None, True),
    ],
)
def test_a_response_without_change_is_stuck_sooner_where_others_end(
    after_ms: int, others_ended_at_ms: int | None, stuck: bool
) -> None:
    history = given(claimed(CLAIM_AT, stuck_after_ms=STUCK_MS), observed(AT, "running", raw_status="queued"))
    seen = history.when(
        observed(CLAIM_AT + after_ms, "running", raw_status="queued", others_ended_at_ms=others_ended_at_ms)
    )
    assert [output.status for output in seen.step.outputs if isinstance(output, AttemptSettled)] == ["stuck"] * stuck


def test_a_change_restarts_the_patience_and_stuck_is_reported_once() -> None:
    changed = given(
        claimed(CLAIM_AT, stuck_after_ms=STUCK_MS),
        observed(AT, "running", raw_status="queued"),
        observed(AT + 50_000, "running", raw_status="in_progress"),
    )
    others: dict[str, Any] = {"raw_status": "in_progress", "others_ended_at_ms": AT + 60_000}
    assert not changed.when(observed(AT + 50_000 + STUCK_MS - 1, "running", **others)).step.outputs
    told = changed.when(observed(AT + 50_000 + STUCK_MS, "running", **others))
    assert len(told.step.outputs) == 1
    again = given_state(told.step.state).when(observed(AT + 60_000 + STUCK_MS, "running", **others))
    assert not again.step.outputs


def test_a_response_whose_output_or_usage_grows_is_not_stuck() -> None:
    others: dict[str, Any] = {"raw_status": "in_progress", "others_ended_at_ms": AT + 60_000}
    history = given(
        claimed(CLAIM_AT, stuck_after_ms=STUCK_MS),
        observed(AT, "running", raw_status="in_progress"),
        observed(AT + 50_000, "running", raw_status="in_progress", progress=7),
    )
    assert not history.when(observed(AT + 50_000 + STUCK_MS - 1, "running", progress=7, **others)).step.outputs
    assert history.when(observed(AT + 50_000 + STUCK_MS, "running", progress=7, **others)).step.outputs
    assert not history.when(observed(AT + 50_000 + STUCK_MS, "running", progress=8, **others)).step.outputs
    # A replica that is behind shows less: no change.
    assert history.when(observed(AT + 50_000 + STUCK_MS, "running", progress=3, **others)).step.outputs


def test_stuck_may_be_a_multiple_of_the_typical_run_time() -> None:
    history = given(claimed(CLAIM_AT, stuck_factor=5.0), observed(AT, "running", raw_status="queued"))
    seen: dict[str, Any] = {"raw_status": "queued", "others_ended_at_ms": AT, "typical_ms": 10_000}
    assert not history.when(observed(CLAIM_AT + 49_999, "running", **seen)).step.outputs
    assert history.when(observed(CLAIM_AT + 50_000, "running", **seen)).step.outputs
    assert not history.when(observed(CLAIM_AT + 50_000, "running", **{**seen, "typical_ms": None})).step.outputs


def test_no_poll_is_planned_past_the_last_one_before_the_deadline() -> None:
    given_state(AbsentResponse()).when(claimed(CLAIM_AT, poll_at_ms=DEADLINE + 1)).then(
        Step(RunningResponse(claim(), LAST_POLL))
    )


def test_a_timer_plans_no_poll_past_the_last_one() -> None:
    due = CLAIM_AT + 20_000
    seen = given(claimed(CLAIM_AT)).when(response_timer(due, next_poll_at_ms=DEADLINE))
    seen.then(Step(RunningResponse(claim(), LAST_POLL, polls=1), (poll(due, f"{RESP}/timer/{due}", "timer"),)))


def test_after_the_last_poll_polling_goes_on_as_stamped() -> None:
    state = RunningResponse(claim(), LAST_POLL)
    seen = given_state(state).when(response_timer(LAST_POLL, next_poll_at_ms=DEADLINE + 60_000))
    expected = RunningResponse(claim(), DEADLINE + 60_000, polls=1)
    seen.then(Step(expected, (poll(LAST_POLL, f"{RESP}/timer/{LAST_POLL}", "timer"),)))


def test_a_stamp_in_the_past_still_moves_the_next_poll_on() -> None:
    due = CLAIM_AT + 20_000
    seen = given(claimed(CLAIM_AT)).when(response_timer(due, next_poll_at_ms=0))
    seen.then(Step(RunningResponse(claim(), due + 1, polls=1), (poll(due, f"{RESP}/timer/{due}", "timer"),)))


def test_the_timer_of_a_poll_fires_once() -> None:
    due = CLAIM_AT + 20_000
    given(claimed(CLAIM_AT), response_timer(due)).when(response_timer(due, due + 9)).then_ignored(Ignored.STALE)


def test_an_unclaimed_response_is_polled_at_so_often_and_then_waits_to_be_forgotten() -> None:
    state: ResponseState = Unclaimed(T0, webhooks(T0), T0 + 15_000, T0 + FORGET_AFTER)
    polls = 0
    while isinstance(state, Unclaimed):
        due = due_ms(state)
        assert due is not None
        done = fold_one(state, response_timer(due))
        state, polls = done.state, polls + len(done.outputs)
    assert (state, polls) == (AbsentResponse(), UNCLAIMED_POLLS_MAX)


def test_an_orphan_whose_first_poll_was_a_404_is_still_offered_to_its_job() -> None:
    due = T0 + 15_000
    state = fold([webhook(T0), response_timer(due), observed(due + 10, "missing")])
    assert due_ms(state) == due + 60_000, "the next poll is still planned"
    again = fold([webhook(T0), response_timer(due), observed(due + 10, "missing"), response_timer(due + 60_000)])
    seen = given_state(again).when(
        observed(due + 60_010, raw_status="completed", job_id=JOB, attempt=1, tenant="acme")
    )  # fmt: skip
    seen.then(Step(Unclaimed(T0, webhooks(T0), None, T0 + FORGET_AFTER, polls=2), (offer(due + 60_010),)))


def test_a_poll_that_would_come_after_the_forgetting_is_the_forgetting() -> None:
    given_state(AbsentResponse()).when(webhook(T0, claim_by_ms=T0 + 2 * FORGET_AFTER)).then(
        Step(Unclaimed(T0, webhooks(T0), T0 + FORGET_AFTER, T0 + FORGET_AFTER))
    )
    state = Unclaimed(T0, webhooks(T0), T0 + FORGET_AFTER, T0 + FORGET_AFTER)
    given_state(state).when(response_timer(T0 + FORGET_AFTER)).then(Step(AbsentResponse()))


@pytest.mark.parametrize("lacking", ["job_id", "attempt", "tenant"])
def test_metadata_that_lacks_a_part_makes_no_offer(lacking: str) -> None:
    unclaimed = Unclaimed(T0, webhooks(T0), T0 + 15_000, T0 + FORGET_AFTER)
    whole = observed(T0 + 300, job_id=JOB, attempt=1, tenant="acme")
    given_state(unclaimed).when(whole.model_copy(update={lacking: None})).then(
        Step(replace(unclaimed, poll_at_ms=None))
    )


def test_an_offer_names_the_job_attempt_and_tenant_of_the_metadata() -> None:
    unclaimed = Unclaimed(T0, webhooks(T0), T0 + 15_000, T0 + FORGET_AFTER)
    seen = given_state(unclaimed).when(observed(T0 + 300, "running", job_id=JOB, attempt=3, tenant="acme"))
    seen.then(Step(replace(unclaimed, poll_at_ms=None), (offer(T0 + 300, "running", attempt=3),)))


def test_a_foreign_response_can_still_be_claimed() -> None:
    foreign = Unclaimed(T0, webhooks(T0), None, T0 + FORGET_AFTER, polls=1)
    expected = RunningResponse(claim(), CLAIM_AT + 20_000, polls=1, webhooks=webhooks(T0))
    given_state(foreign).when(claimed(CLAIM_AT)).then(Step(expected, (poll(CLAIM_AT, f"{RESP}/claimed", "claim"),)))


def test_an_observation_that_names_another_job_does_not_change_the_claim() -> None:
    seen = given(claimed(CLAIM_AT)).when(observed(T0 + 300, job_id="job_9", attempt=9, tenant="other"))
    end = settled(T0 + 300, found_by="poll", polls=0)
    seen.then(Step(Ended(claim(), "completed", T0 + 300 + FORGET_AFTER), (end,)))


def test_after_a_failed_poll_brought_the_next_one_forward_the_older_timer_is_stale() -> None:
    history = given(claimed(CLAIM_AT), poll_failed(T0 + 300, next_poll_at_ms=T0 + 800))
    history.when(response_timer(CLAIM_AT + 20_000)).then_ignored(Ignored.STALE)


def test_a_response_that_outlives_its_jobs_deadline_is_cancelled_at_each_poll() -> None:
    late = RunningResponse(claim(), DEADLINE + 5_000, polls=3)
    fired = response_timer(DEADLINE + 5_000, next_poll_at_ms=DEADLINE + 60_000)
    again = CancelResponse(id=f"{fired.id}/cancel", at_ms=fired.at_ms, response_id=RESP, job_id=JOB)
    given_state(late).when(fired).then(Step(replace(late, poll_at_ms=DEADLINE + 60_000, polls=4), (again,)))


def test_until_the_deadline_a_poll_after_the_last_planned_one_is_still_a_poll() -> None:
    running = RunningResponse(claim(), DEADLINE - 1, polls=3)
    step = given_state(running).when(response_timer(DEADLINE - 1, next_poll_at_ms=DEADLINE + 60_000)).step
    assert [type(output) for output in step.outputs] == [RetrieveResponse]


def test_a_response_that_never_ends_is_forgotten_with_its_job() -> None:
    at_ms = DEADLINE + FORGET_AFTER
    given_state(RunningResponse(claim(), at_ms)).when(response_timer(at_ms, next_poll_at_ms=at_ms + 1)).then(
        Step(AbsentResponse())
    )
