"""Every state of a job × every fact, with the complete step. A missing pair fails."""

from dataclasses import replace
from itertools import product

import pytest

from schemas.jobs import (
    AdoptionRefused,
    AttemptAccepted,
    AttemptRejected,
    AttemptSettled,
    AttemptUnknown,
    CancelRequested,
    JobRefused,
    JobSubmitted,
    JobTimerFired,
    ResponseAdopted,
)
from schemas.results import JobResult, Reason, Timings
from streams.fold.attempts import Abandoned, OutcomeUnknown, Over, Running, Submitting
from streams.fold.job import Absent, Active, BackingOff, Finished, JobState, due_ms, status, step
from streams.fold.step import Ignored, Step
from tests.support.builders import (
    DEADLINE,
    FORGET_AFTER,
    JOB,
    POLICY,
    RESP,
    T0,
    TENANT,
    accepted,
    adopted,
    adoption_refused,
    cancel_requested,
    job_timer,
    refused,
    rejected,
    settled,
    submitted,
    unknown,
)
from tests.unit.streams.fold.cases import EXPIRED, EXPIRED_WAITING
from tests.unit.streams.fold.matrix import Case, ignored
from tests.unit.streams.fold.states import (
    REPORT_BY,
    active,
    attempts,
    backing_off,
    brief,
    claim_of,
    create,
    finished,
    late_claim_of,
    release_of,
    result,
    spec,
    unheard_of,
    waits,
)

AT = T0 + 1_000
LIMITED = Reason(code="rate_limit_exceeded", message="tokens per minute", http_status=429, said_by="provider")
WAIT = waits("limited", refused=1)
CANCELLED = Reason(code="cancel_requested", message="cancelled by its submitter")
SUBMITTING = active(Submitting(1, T0, REPORT_BY))
RUNNING = active(Running(1, RESP, T0 + 500, False))
BACKING = backing_off(AT + WAIT, LIMITED, last_number=1, rejections=1)
BACKING_ABANDONED = backing_off(AT, Reason(code="unknown_outcome"), Abandoned(1), retries=1, unknowns=1)
FINISHED = finished("completed", AT, RESP)
ADOPTED = Active(
    replace(spec(), model="", request=None), attempts(Running(1, RESP, T0, True))
)  # fmt: skip
TAKEN = Reason(code="response_taken", message="It can't be adopted: it belongs to a job.")


CASES = (
    Case(
        "a submission begins the first attempt",
        Absent(),
        submitted(),
        Step(SUBMITTING, (create(T0),)),
    ),
    Case(
        "a refused request ends as rejected, with its reason",
        Absent(),
        refused(),
        Step(
            finished("rejected", T0, request_sha256=""),
            (
                result(
                    "rejected",
                    T0,
                    reason=Reason(code="invalid_request", message="request.model is missing"),
                    model=None,
                ),
            ),
        ),
    ),
    Case(
        "an adopted response is the first attempt, and runs",
        Absent(),
        adopted(),
        Step(ADOPTED, (claim_of(T0, id=f"{RESP}/claimed/{JOB}", missing_patience_ms=120_000, made_elsewhere=True),)),
    ),
    ignored("a refused adoption of no job is ignored", Absent(), adoption_refused(AT), Ignored.UNKNOWN_KEY),
    ignored("a repeated adoption is ignored", ADOPTED, adopted(AT, deadline_at_ms=DEADLINE + 5), Ignored.DUPLICATE),
    ignored("an adoption under a job's id is a conflict", RUNNING, adopted(request_sha256="x"), Ignored.CONFLICT),
    ignored("an adoption while backing off is a conflict", BACKING, adopted(request_sha256="x"), Ignored.CONFLICT),
    ignored("a repeated adoption after the end is ignored", FINISHED, adopted(AT), Ignored.DUPLICATE),
    ignored("a refused adoption while backing off is stale", BACKING, adoption_refused(AT), Ignored.STALE),
    ignored("a refused adoption after the end is late", FINISHED, adoption_refused(AT), Ignored.LATE),
    Case(
        "a response that belongs to another job ends who adopted it as rejected, and is not released",
        ADOPTED,
        adoption_refused(AT),
        Step(finished("rejected", AT), (result("rejected", AT, reason=TAKEN, model=None),)),
    ),
    ignored("a cancel of no job is ignored", Absent(), cancel_requested(AT), Ignored.UNKNOWN_KEY),
    ignored("an acceptance of no job is ignored", Absent(), accepted(AT), Ignored.UNKNOWN_KEY),
    ignored("a rejection of no job is ignored", Absent(), rejected(AT), Ignored.UNKNOWN_KEY),
    ignored("an unknown outcome of no job is ignored", Absent(), unknown(AT), Ignored.UNKNOWN_KEY),
    ignored("the end of an attempt of no job is ignored", Absent(), settled(AT), Ignored.UNKNOWN_KEY),
    ignored("a timer of no job is ignored", Absent(), job_timer(AT), Ignored.UNKNOWN_KEY),
    ignored("a repeated submission is ignored", SUBMITTING, submitted(AT), Ignored.DUPLICATE),
    ignored(
        "another body under the same id is a conflict", RUNNING, submitted(AT, request_sha256="sha-2"), Ignored.CONFLICT
    ),
    ignored(
        "another tenant's submission of the same id is a conflict", RUNNING, submitted(tenant="b"), Ignored.CONFLICT
    ),
    ignored("a refusal of a job that is open is a conflict", RUNNING, refused(AT), Ignored.CONFLICT),
    Case(
        "a cancel while submitting ends the job at once",
        SUBMITTING,
        cancel_requested(AT),
        Step(finished("cancelled", AT), (result("cancelled", AT, unheard_of(), reason=CANCELLED),)),
    ),
    Case(
        "a cancel while running cancels the response too",
        RUNNING,
        cancel_requested(AT, reason="too slow"),
        Step(
            finished("cancelled", AT, RESP, uncounted=(RESP,)),
            (
                result("cancelled", AT, brief("running"), reason=Reason(code="cancel_requested", message="too slow")),
                release_of(AT),
            ),
        ),
    ),
    ignored("another tenant cannot cancel", RUNNING, cancel_requested(AT, tenant="b"), Ignored.CONFLICT),
    Case(
        "an accepted attempt runs and its response is claimed",
        SUBMITTING,
        accepted(AT),
        Step(active(Running(1, RESP, AT, False)), (claim_of(AT),)),
    ),
    ignored("a repeated acceptance is ignored", RUNNING, accepted(AT, adopted=True), Ignored.DUPLICATE),
    ignored("an acceptance for another tenant is impossible", SUBMITTING, accepted(AT, tenant="b"), Ignored.IMPOSSIBLE),
    ignored("an attempt that was never begun is impossible", SUBMITTING, accepted(AT, 2), Ignored.IMPOSSIBLE),
    Case(
        "a second response of the same attempt is watched and cancelled",
        RUNNING,
        accepted(AT, response_id="resp_2"),
        Step(RUNNING, (claim_of(AT, response_id="resp_2", released=True),)),
    ),
    Case(
        "a rejection backs off",
        SUBMITTING,
        rejected(AT),
        Step(BACKING),
    ),
    ignored("a rejection of an attempt that runs is stale", RUNNING, rejected(AT), Ignored.STALE),
    Case(
        "an unknown outcome leaves the attempt for a webhook to bring back",
        SUBMITTING,
        unknown(AT),
        Step(active(OutcomeUnknown(1, AT + POLICY.adoption_grace_ms), unknowns=1)),
    ),
    ignored("an unknown outcome of an attempt that runs is stale", RUNNING, unknown(AT), Ignored.STALE),
    Case(
        "the first completed attempt is the result",
        RUNNING,
        settled(AT, webhook_at_ms=AT - 50, provider_created_at_ms=T0 + 450, provider_ended_at_ms=AT - 90),
        Step(
            FINISHED,
            (
                result(
                    "completed",
                    AT,
                    brief("completed"),
                    found_by="webhook",
                    timings=Timings(
                        submitted_at_ms=T0,
                        accepted_at_ms=T0 + 500,
                        finished_at_ms=AT,
                        queued_ms=500,
                        running_ms=460,
                        webhook_lag_ms=40,
                        detection_ms=90,
                    ),
                ),
            ),
        ),
    ),
    ignored("the end of an unclaimed response is ignored", SUBMITTING, settled(AT), Ignored.UNKNOWN_KEY),
    ignored("a timer that is not due is stale", SUBMITTING, job_timer(REPORT_BY - 1), Ignored.STALE),
    Case(
        "a report that does not come in time makes the outcome unknown",
        SUBMITTING,
        job_timer(REPORT_BY, REPORT_BY + 7),
        Step(active(OutcomeUnknown(1, REPORT_BY + 7 + POLICY.adoption_grace_ms), unknowns=1)),
    ),
    ignored("a repeated submission while backing off is ignored", BACKING, submitted(AT), Ignored.DUPLICATE),
    ignored("a refusal while backing off is a conflict", BACKING, refused(AT), Ignored.CONFLICT),
    Case(
        "a cancel while backing off ends the job",
        BACKING,
        cancel_requested(AT + 5),
        Step(finished("cancelled", AT + 5), (result("cancelled", AT + 5, reason=CANCELLED, rejections=1),)),
    ),
    Case(
        "a lost attempt that turns up while backing off is adopted",
        BACKING_ABANDONED,
        accepted(AT + 5, adopted=True),
        Step(
            active(Running(1, RESP, AT + 5, True), unknowns=1, streak=1, streak_cause="faulty"),
            (claim_of(AT + 5),),
        ),
    ),
    Case(
        "a response of a rejected attempt is watched and cancelled",
        BACKING,
        accepted(AT + 5),
        Step(BACKING, (claim_of(AT + 5, released=True),)),
    ),
    Case(
        "a late rejection of a lost attempt counts in place of what it was taken for",
        BACKING_ABANDONED,
        rejected(AT + 5),
        Step(
            replace(
                BACKING_ABANDONED,
                attempts=replace(BACKING_ABANDONED.attempts.reject(1).count(1, "refused", "limited"), retries=0),
            )
        ),
    ),
    ignored("a repeated rejection is stale", BACKING, rejected(AT + 5), Ignored.STALE),
    ignored("a late unknown outcome of a lost attempt is stale", BACKING_ABANDONED, unknown(AT + 5), Ignored.STALE),
    ignored(
        "a repeated end of an attempt is a duplicate",
        backing_off(AT, LIMITED, Over(1, RESP, "failed", T0, False), retries=1),
        settled(AT + 5, "failed"),
        Ignored.DUPLICATE,
    ),
    Case(
        "the next attempt begins when its time comes",
        BACKING,
        job_timer(AT + WAIT, AT + WAIT),
        Step(
            active(
                Submitting(2, AT + WAIT, AT + WAIT + 60_000),
                last_number=2,
                rejections=1,
                streak=1,
                streak_cause="limited",
            ),
            (create(AT + WAIT, 2),),
        ),
    ),
    ignored("a timer that backing off does not expect is stale", BACKING, job_timer(AT), Ignored.STALE),
    Case(
        "a timer of the deadline ends a job that waits for an earlier one",
        BACKING,
        job_timer(DEADLINE, DEADLINE + 5),
        Step(
            finished("expired", DEADLINE + 5),
            (result("expired", DEADLINE + 5, reason=EXPIRED_WAITING, rejections=1),),
        ),
    ),
    Case(
        "a timer that is due after the deadline ends a job that waits for an earlier one",
        SUBMITTING,
        job_timer(DEADLINE + 1),
        Step(finished("expired", DEADLINE + 1), (result("expired", DEADLINE + 1, unheard_of(), reason=EXPIRED),)),
    ),
    ignored("a timer just before the deadline is stale", SUBMITTING, job_timer(DEADLINE - 1), Ignored.STALE),
    ignored("a repeated submission after the end is ignored", FINISHED, submitted(AT), Ignored.DUPLICATE),
    ignored(
        "another body after the end is a conflict", FINISHED, submitted(AT, request_sha256="sha-2"), Ignored.CONFLICT
    ),
    ignored("a refusal after the end is late", FINISHED, refused(AT), Ignored.LATE),
    ignored("a cancel after the end is late", FINISHED, cancel_requested(AT), Ignored.LATE),
    ignored("a repeated acceptance after the end is late", FINISHED, accepted(AT), Ignored.LATE),
    ignored("after the end too another tenant is impossible", FINISHED, accepted(AT, tenant="b"), Ignored.IMPOSSIBLE),
    Case(
        "a latecomer is watched and cancelled",
        FINISHED,
        accepted(AT + 5, 2, "resp_2"),
        Step(
            replace(FINISHED, response_ids=(RESP, "resp_2"), uncounted=("resp_2",)),
            (late_claim_of(AT + 5, 2, "resp_2"),),
        ),
    ),
    ignored("a rejection after the end is late", FINISHED, rejected(AT), Ignored.LATE),
    ignored("an unknown outcome after the end is late", FINISHED, unknown(AT), Ignored.LATE),
    ignored("the end of an attempt after that of its job is late", FINISHED, settled(AT), Ignored.LATE),
    ignored("a timer from before the end is stale", FINISHED, job_timer(REPORT_BY), Ignored.STALE),
    Case(
        "a finished job is forgotten when its window ends",
        FINISHED,
        job_timer(AT + FORGET_AFTER),
        Step(Absent()),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.said.replace(" ", "_"))
def test_the_step_is_as_written_down(case: Case) -> None:
    assert step(case.given, case.when) == case.then  # type: ignore[arg-type]


def test_no_pair_of_state_and_fact_is_left_out() -> None:
    states = (Absent, Active, BackingOff, Finished)
    facts = (
        JobSubmitted,
        JobRefused,
        CancelRequested,
        AttemptAccepted,
        AttemptRejected,
        AttemptUnknown,
        AttemptSettled,
        JobTimerFired,
        ResponseAdopted,
        AdoptionRefused,
    )
    assert {(type(case.given), type(case.when)) for case in CASES} == set(product(states, facts))


def test_every_reason_to_ignore_is_met() -> None:
    assert {case.then.ignored for case in CASES} - {None} == set(Ignored)


def test_every_result_is_keyed_by_its_job_and_its_id_is_derived() -> None:
    results = [output for case in CASES for output in case.then.outputs if isinstance(output, JobResult)]
    assert results
    assert {(made.id, made.key, made.tenant) for made in results} == {(f"{JOB}/result", JOB, TENANT)}


@pytest.mark.parametrize(
    ("state", "word", "due"),
    [
        (Absent(), "absent", None),
        (SUBMITTING, "submitting", REPORT_BY),
        (RUNNING, "running", DEADLINE),
        (active(OutcomeUnknown(1, AT + 9)), "unknown", AT + 9),
        (active(Abandoned(1), Submitting(2, AT, AT + 7)), "submitting", AT + 7),
        (active(Running(1, RESP, AT, True), Submitting(2, AT, AT + 7)), "running", AT + 7),
        (active(Submitting(1, T0, DEADLINE + 1)), "submitting", DEADLINE),
        (BACKING, "backing_off", AT + WAIT),
        (backing_off(DEADLINE + 1, LIMITED), "backing_off", DEADLINE),
        (FINISHED, "finished", AT + FORGET_AFTER),
    ],
)
def test_the_status_and_the_due_time_of_each_state(state: JobState, word: str, due: int | None) -> None:
    assert (status(state), due_ms(state)) == (word, due)
