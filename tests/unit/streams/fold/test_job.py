"""The job fold, case by case, beyond the matrix of states and facts."""

from typing import Any

import pytest

from schemas.base import InlineBody, Usage
from schemas.results import Reason, Timings
from streams.fold.attempts import Abandoned, OutcomeUnknown, Over, Running, Submitting
from streams.fold.job_ended import RESPONSES_REMEMBERED_MAX
from streams.fold.job_states import Absent
from streams.fold.step import Ignored, Step
from tests.support.builders import (
    DEADLINE,
    POLICY,
    RESP,
    T0,
    accepted,
    cancel_requested,
    job_timer,
    refused,
    rejected,
    settled,
    submitted,
    unknown,
)
from tests.support.given_when_then import given, given_state
from tests.unit.streams.fold.cases import (
    ABANDONED_AT,
    AT,
    EXPIRED,
    EXPIRED_WAITING,
    GRACE,
    LIMITED,
    PAID,
    SERVER_ERROR,
    SPENT,
    UNKNOWN,
    decided,
    failed,
)
from tests.unit.streams.fold.states import (
    REPORT_BY,
    active,
    backing_off,
    brief,
    claim_of,
    create,
    finished,
    late_claim_of,
    release_of,
    result,
    unheard_of,
    waits,
)

# ---- refusals at the provider


def test_a_rate_limit_waits_as_long_as_the_answer_asked_for() -> None:
    wait_ms = waits("limited", told_ms=30_000, refused=1)
    waiting = backing_off(AT + wait_ms, LIMITED, last_number=1, rejections=1)
    given(submitted()).when(rejected(AT, wait_ms=30_000)).then(Step(waiting))


def test_a_rate_limit_that_names_no_time_waits_a_minute() -> None:
    waiting = backing_off(AT + waits("limited", refused=1), LIMITED, last_number=1, rejections=1)
    given(submitted()).when(rejected(AT)).then(Step(waiting))


def test_a_refusal_that_no_repeat_can_mend_ends_the_job() -> None:
    reason = Reason(code="invalid_value", message="no", http_status=400, said_by="provider")
    seen = given(submitted()).when(rejected(AT, cause="never", code="invalid_value", message="no", http_status=400))
    seen.then(Step(finished("failed", AT), (result("failed", AT, reason=reason, rejections=1),)))


def test_the_last_granted_rejection_still_backs_off() -> None:
    begun = active(Submitting(3, T0, REPORT_BY), last_number=3, rejections=2)
    waiting = backing_off(AT + waits("limited", refused=3), LIMITED, last_number=3, rejections=3)
    given_state(begun).when(rejected(AT, 3)).then(Step(waiting))


def test_one_rejection_more_than_granted_ends_the_job_and_says_so() -> None:
    begun = active(Submitting(4, T0, REPORT_BY), last_number=4, rejections=3)
    message = "tokens per minute (all 3 retries after refusals are used)"
    reason = LIMITED.model_copy(update={"message": message})
    seen = given_state(begun).when(rejected(AT, 4))
    seen.then(Step(finished("failed", AT), (result("failed", AT, reason=reason, rejections=4),)))


def test_rejections_do_not_use_up_retries() -> None:
    history = given(submitted(), rejected(AT), job_timer(AT + waits("limited", refused=1)), accepted(AT + 90_000, 2))
    over = Over(2, RESP, "failed", AT + 90_000, False, "server_error", PAID)
    waiting = backing_off(
        AT + 95_000 + waits("faulty", refused=1, ended=1), SERVER_ERROR, over, last_number=2, retries=1, rejections=1
    )
    history.when(failed(AT + 95_000, 2, usage=PAID)).then(Step(waiting))


def test_a_rejection_reported_after_the_outcome_counted_as_unknown_backs_off() -> None:
    wait_ms = waits("limited", refused=1)
    waiting = backing_off(REPORT_BY + 5 + wait_ms, LIMITED, last_number=1, rejections=1, unknowns=1)
    given(submitted(), job_timer(REPORT_BY)).when(rejected(REPORT_BY + 5)).then(Step(waiting))


# ---- unknown outcomes


def test_an_unknown_attempt_that_is_adopted_runs() -> None:
    running = active(Running(1, RESP, REPORT_BY + 5, True), unknowns=1)
    history = given(submitted(), job_timer(REPORT_BY))
    history.when(accepted(REPORT_BY + 5, adopted=True)).then(Step(running, (claim_of(REPORT_BY + 5),)))


def test_an_attempt_not_adopted_in_time_is_abandoned_and_a_retry_is_granted() -> None:
    waiting = backing_off(ABANDONED_AT + waits("faulty", ended=1), UNKNOWN, Abandoned(1), retries=1, unknowns=1)
    given(submitted(), job_timer(REPORT_BY)).when(job_timer(ABANDONED_AT)).then(Step(waiting))


def test_the_grace_of_an_unknown_attempt_counts_from_the_report() -> None:
    of_unknown_outcome = active(OutcomeUnknown(1, AT + GRACE), unknowns=1)
    given(submitted()).when(unknown(AT)).then(Step(of_unknown_outcome))
    given(submitted(), unknown(AT)).when(job_timer(REPORT_BY)).then_ignored(Ignored.STALE)
    given(submitted(), unknown(AT)).when(unknown(AT + 5)).then_ignored(Ignored.STALE)


def test_an_abandoned_attempt_that_is_adopted_runs_beside_its_successor() -> None:
    retry_at = ABANDONED_AT + waits("faulty", ended=1)
    history = given(submitted(), job_timer(REPORT_BY), job_timer(ABANDONED_AT), job_timer(retry_at))
    both = active(
        Running(1, RESP, retry_at + 5, True), Submitting(2, retry_at, retry_at + POLICY.report_timeout_ms), unknowns=1,
        streak=1, streak_cause="faulty",
    )  # fmt: skip
    history.when(accepted(retry_at + 5, adopted=True)).then(Step(both, (claim_of(retry_at + 5),)))


def test_the_first_of_two_to_complete_wins_and_the_other_is_cancelled() -> None:
    both = active(Running(1, "resp_1", AT, True), Running(2, "resp_2", AT + 5, False), retries=1)
    briefs = (brief("running", 1, "resp_1", adopted=True), brief("completed", 2, "resp_2"))
    expected = result("completed", AT + 900, *briefs, found_by="webhook", timings=decided(AT + 900, AT + 5))
    seen = given_state(both).when(settled(AT + 900, attempt=2, response_id="resp_2"))
    seen.then(
        Step(
            finished("completed", AT + 900, "resp_1", "resp_2", uncounted=("resp_1",)),
            (expected, release_of(AT + 900, "resp_1")),
        )
    )


def test_a_failure_while_another_attempt_is_live_waits_for_the_other() -> None:
    both = active(Running(1, "resp_1", AT, True), Submitting(2, AT, AT + 60_000), retries=1)
    over = Over(1, "resp_1", "failed", AT, True, "server_error")
    after = active(over, Submitting(2, AT, AT + 60_000), retries=1, unpaid_ends=1, streak=1, streak_cause="faulty")
    given_state(both).when(failed(AT + 900)).then(Step(after))


def test_a_rejection_while_another_attempt_runs_only_counts_whatever_its_class() -> None:
    both = active(Running(1, "resp_1", AT, True), Submitting(2, AT, AT + 60_000), retries=1)
    after = active(
        Running(1, "resp_1", AT, True), last_number=2, retries=1, rejections=1, streak=1, streak_cause="never"
    )  # fmt: skip
    given_state(both).when(rejected(AT + 900, 2, cause="never")).then(Step(after))


def test_an_unknown_attempt_is_abandoned_without_a_retry_while_another_runs() -> None:
    both = active(Running(1, "resp_1", AT, True), OutcomeUnknown(2, AT + 60_000), retries=1)
    after = active(Running(1, "resp_1", AT, True), Abandoned(2), retries=2, streak=1, streak_cause="faulty")
    given_state(both).when(job_timer(AT + 60_000)).then(Step(after))


def test_a_second_response_of_an_attempt_does_not_settle_the_job() -> None:
    history = given(submitted(), accepted(AT), accepted(AT + 5, response_id="resp_2"))
    history.when(settled(AT + 9, response_id="resp_2")).then_ignored(Ignored.UNKNOWN_KEY)


# ---- how attempts end


def test_a_failed_attempt_is_retried_after_a_backoff() -> None:
    over = Over(1, RESP, "failed", AT, False, "server_error", PAID)
    waiting = backing_off(AT + 900 + waits("faulty", ended=1), SERVER_ERROR, over, retries=1)
    given(submitted(), accepted(AT)).when(failed(AT + 900, usage=PAID)).then(Step(waiting))


def test_the_last_granted_retry_waits_longer() -> None:
    overs = tuple(Over(n, f"resp_{n}", "failed", AT, False, "server_error", PAID) for n in (1, 2))
    second = active(overs[0], Running(2, "resp_2", AT, False), retries=1, streak=1, streak_cause="faulty")
    waiting = backing_off(AT + 900 + waits("faulty", ended=2, streak=2), SERVER_ERROR, *overs, retries=2, streak=2)
    given_state(second).when(failed(AT + 900, 2, "resp_2", usage=PAID)).then(Step(waiting))


def test_when_the_retries_are_used_up_the_job_fails_and_says_so() -> None:
    last = active(Abandoned(1), Abandoned(2), Running(3, "resp_3", AT, False), retries=2)
    reason = Reason(code="server_error", message=SPENT)
    expected = result(
        "failed", AT + 900, unheard_of(1), unheard_of(2), brief("failed", 3, "resp_3", code="server_error", usage=PAID),
        reason=reason, found_by="webhook", timings=decided(AT + 900, AT), usage=PAID,
    )  # fmt: skip
    seen = given_state(last).when(failed(AT + 900, 3, "resp_3", usage=PAID))
    seen.then(Step(finished("failed", AT + 900, "resp_3"), (expected,)))


def test_an_abandoned_attempt_without_a_retry_left_fails_the_job() -> None:
    last = active(Abandoned(1), Abandoned(2), OutcomeUnknown(3, AT + 5), retries=2)
    reason = Reason(code="unknown_outcome", message=f"{UNKNOWN.message} {SPENT}")
    expected = result("failed", AT + 5, unheard_of(1), unheard_of(2), unheard_of(3), reason=reason)
    given_state(last).when(job_timer(AT + 5)).then(Step(finished("failed", AT + 5), (expected,)))


def test_a_failure_that_no_repeat_can_mend_is_the_result_with_its_body_and_usage() -> None:
    body, usage = InlineBody(value={"id": RESP}), Usage(total_tokens=3)
    event = failed(AT + 900, cause="never", code="invalid_prompt", message="policy", response=body, usage=usage)
    expected = result(
        "failed", AT + 900, brief("failed", code="invalid_prompt", usage=usage),
        reason=Reason(code="invalid_prompt", message="policy", said_by="provider"), found_by="webhook",
        timings=decided(AT + 900, AT), response=body, usage=usage,
    )  # fmt: skip
    given(submitted(), accepted(AT)).when(event).then(Step(finished("failed", AT + 900, RESP), (expected,)))


@pytest.mark.parametrize("status", ["incomplete", "cancelled"])
def test_incomplete_and_cancelled_at_the_provider_are_results_and_are_not_retried(status: Any) -> None:
    expected = result(
        status, AT + 900, brief(status), reason=Reason(code=status), found_by="webhook", timings=decided(AT + 900, AT)
    )
    seen = given(submitted(), accepted(AT)).when(settled(AT + 900, status))
    seen.then(Step(finished(status, AT + 900, RESP), (expected,)))


def test_a_response_that_vanished_is_retried() -> None:
    over = Over(1, RESP, "missing", AT, False, "response_missing")
    waiting = backing_off(AT + 900 + waits("faulty", ended=1), Reason(code="response_missing"), over, retries=1)
    event = settled(AT + 900, "missing", cause="faulty", code="response_missing")
    given(submitted(), accepted(AT)).when(event).then(Step(waiting, (release_of(AT + 900),)))


def test_different_clocks_never_make_a_negative_span() -> None:
    event = settled(AT, webhook_at_ms=AT - 50, provider_created_at_ms=AT + 9_000, provider_ended_at_ms=AT + 1_000)
    timings = Timings(
        submitted_at_ms=T0, accepted_at_ms=T0 + 500, finished_at_ms=AT, queued_ms=500, running_ms=0, webhook_lag_ms=0,
        detection_ms=0,
    )  # fmt: skip
    expected = result("completed", AT, brief("completed"), found_by="webhook", timings=timings)
    given(submitted(), accepted(T0 + 500)).when(event).then(Step(finished("completed", AT, RESP), (expected,)))


# ---- the deadline


def test_the_deadline_ends_a_running_job_and_cancels_its_response() -> None:
    expected = result("expired", DEADLINE, brief("running"), reason=EXPIRED)
    seen = given(submitted(), accepted(AT)).when(job_timer(DEADLINE))
    seen.then(Step(finished("expired", DEADLINE, RESP, uncounted=(RESP,)), (expected, release_of(DEADLINE))))


def test_the_deadline_ends_a_job_that_backs_off_past_it() -> None:
    history = given(submitted(), rejected(DEADLINE - 30_000, wait_ms=2 * DEADLINE))
    history.when(job_timer(DEADLINE)).then(
        Step(finished("expired", DEADLINE), (result("expired", DEADLINE, reason=EXPIRED_WAITING, rejections=1),))
    )


def test_a_retry_due_at_the_deadline_itself_is_not_begun() -> None:
    waiting = backing_off(DEADLINE, LIMITED, last_number=1, rejections=1)
    expected = result("expired", DEADLINE, reason=EXPIRED_WAITING, rejections=1)
    given_state(waiting).when(job_timer(DEADLINE)).then(Step(finished("expired", DEADLINE), (expected,)))


def test_a_job_taken_after_its_deadline_sends_a_command_that_is_no_longer_valid_and_expires_at_the_first_timer() -> (
    None
):
    begun = active(Submitting(1, T0, REPORT_BY), deadline_at_ms=T0 - 1)
    given_state(Absent()).when(submitted(deadline_at_ms=T0 - 1)).then(Step(begun, (create(T0, not_after_ms=T0 - 1),)))
    reason = Reason(code="deadline", message="not ended -1 ms after its submission")
    expected = result("expired", T0, unheard_of(), reason=reason)
    given_state(begun).when(job_timer(T0 - 1, T0)).then(Step(finished("expired", T0), (expected,)))


# ---- after the end


def test_an_attempt_that_was_submitting_at_the_end_turns_up_late_and_is_cancelled() -> None:
    history = given(submitted(), cancel_requested(AT))
    seen = history.when(accepted(AT + 50))
    seen.then(Step(finished("cancelled", AT, RESP, uncounted=(RESP,)), (late_claim_of(AT + 50, 1, RESP),)))


def test_a_repeated_latecomer_is_late() -> None:
    given(submitted(), cancel_requested(AT), accepted(AT + 50)).when(accepted(AT + 60)).then_ignored(Ignored.LATE)


def test_a_flood_of_latecomers_is_left_alone() -> None:
    ids = tuple(f"resp_{number}" for number in range(RESPONSES_REMEMBERED_MAX))
    given_state(finished("completed", AT, *ids)).when(accepted(AT, response_id="one_more")).then_ignored(Ignored.LATE)
    room = given_state(finished("completed", AT, *ids[1:])).when(accepted(AT, response_id="one_more"))
    room.then(
        Step(
            finished("completed", AT, *ids[1:], "one_more", uncounted=("one_more",)),
            (late_claim_of(AT, 1, "one_more"),),
        )
    )


def test_a_submission_of_a_job_that_was_refused_is_a_conflict() -> None:
    given(refused()).when(submitted(AT)).then_ignored(Ignored.CONFLICT)


def test_the_timer_of_an_attempt_is_stale_after_the_end() -> None:
    given(submitted(), accepted(AT), settled(AT + 9)).when(job_timer(DEADLINE)).then_ignored(Ignored.STALE)


def test_a_result_repeats_the_session_and_the_tags() -> None:
    seen = given(submitted(session_id="s", tags=("a", "b"))).when(cancel_requested(AT))
    reason = Reason(code="cancel_requested", message="cancelled by its submitter")
    expected = result("cancelled", AT, unheard_of(), reason=reason, session_id="s", tags=("a", "b"))
    seen.then(Step(finished("cancelled", AT), (expected,)))
