"""Every state of a response × every fact, with the complete step. A missing pair fails."""

from dataclasses import replace
from itertools import product

import pytest

from schemas.responses import (
    PollFailed,
    ResponseClaimed,
    ResponseDeadlineMoved,
    ResponseObserved,
    ResponseReleased,
    ResponseTimerFired,
    WebhookReceived,
)
from streams.fold.response import (
    AbsentResponse,
    Ended,
    ReceivedWebhooks,
    ResponseState,
    RunningResponse,
    SeenSoFar,
    Unclaimed,
    due_ms,
    step,
)
from streams.fold.step import Ignored, Step
from tests.support.builders import (
    FORGET_AFTER,
    JOB,
    REQUEST,
    RESP,
    T0,
    accepted,
    adoption_refused,
    claimed,
    deadline_moved,
    observed,
    poll_failed,
    released,
    response_timer,
    settled,
    webhook,
)
from tests.unit.streams.fold.matrix import Case, ignored
from tests.unit.streams.fold.states import CLAIM_AT, cancel, claim, offer, poll, webhooks

AT = T0 + 1_000
UNCLAIMED = Unclaimed(T0, webhooks(T0), T0 + 15_000, T0 + FORGET_AFTER)
RUNNING = RunningResponse(claim(), T0 + 20_000)
ENDED = Ended(claim(), "completed", AT + FORGET_AFTER)
ELSEWHERE = RunningResponse(replace(claim(), made_elsewhere=True), T0 + 20_000)
OTHER_JOB = {"job_id": "other:job", "attempt": 1, "tenant": "other"}
TAKEN = adoption_refused(AT)
GIVEN_AWAY = (adoption_refused(AT, job_id="x", message=f"It belongs to the job {JOB}."),)


CASES = (
    Case(
        "a webhook of an absent response makes it unclaimed",
        AbsentResponse(),
        webhook(AT, ended_at_ms=AT - 500),
        Step(Unclaimed(AT, webhooks(AT, ended_at_ms=AT - 500), AT + 15_000, AT + FORGET_AFTER)),
    ),
    Case(
        "a claim makes a response running, to be looked at when the claim says",
        AbsentResponse(),
        claimed(AT),
        Step(RunningResponse(claim(AT), AT + 20_000)),
    ),
    ignored("an observation of nothing is ignored", AbsentResponse(), observed(AT), Ignored.UNKNOWN_KEY),
    ignored("a failed poll of an unknown response is ignored", AbsentResponse(), poll_failed(AT), Ignored.UNKNOWN_KEY),
    ignored("a timer of nothing is ignored", AbsentResponse(), response_timer(AT), Ignored.UNKNOWN_KEY),
    ignored("a repeated webhook before the claim is ignored", UNCLAIMED, webhook(AT), Ignored.DUPLICATE),
    Case(
        "another webhook before the claim is kept, and the first one's times stay",
        UNCLAIMED,
        webhook(AT, "wh_2", ended_at_ms=T0 - 1),
        Step(replace(UNCLAIMED, webhooks=webhooks(T0, "wh_1", "wh_2", ended_at_ms=T0 - 1))),
    ),
    Case(
        "a claim after the webhook makes a poll at once",
        UNCLAIMED,
        claimed(CLAIM_AT),
        Step(
            RunningResponse(claim(), CLAIM_AT + 20_000, polls=1, webhooks=webhooks(T0)),
            (poll(CLAIM_AT, f"{RESP}/claimed", "claim"),),
        ),
    ),
    Case(
        "an unclaimed response is looked at when its time comes, and again later",
        UNCLAIMED,
        response_timer(T0 + 15_000),
        Step(
            replace(UNCLAIMED, poll_at_ms=T0 + 75_000, polls=1),
            (
                poll(
                    T0 + 15_000,
                    f"{RESP}/timer/{T0 + 15_000}",
                    "adoption",
                    job_id=None,
                    attempt=None,
                    accepted_at_ms=T0,
                ),
            ),
        ),
    ),
    ignored(
        "a timer that an unclaimed response does not expect is ignored",
        UNCLAIMED,
        response_timer(T0 + 14_999),
        Ignored.STALE,
    ),
    Case(
        "an unclaimed response is forgotten when its window ends",
        replace(UNCLAIMED, poll_at_ms=None),
        response_timer(T0 + FORGET_AFTER),
        Step(AbsentResponse()),
    ),
    Case(
        "an observation whose metadata names a job offers the response to that job",
        UNCLAIMED,
        observed(AT, raw_status="completed", job_id=JOB, attempt=1, tenant="acme"),
        Step(replace(UNCLAIMED, poll_at_ms=None), (offer(AT),)),
    ),
    Case(
        "a repeated observation offers it again, for the first offer may not have been published",
        replace(UNCLAIMED, poll_at_ms=None),
        observed(AT, "running", raw_status="in_progress", job_id=JOB, attempt=1, tenant="acme"),
        Step(replace(UNCLAIMED, poll_at_ms=None), (offer(AT, "in_progress"),)),
    ),
    Case(
        "an observation that names no job makes it foreign: it waits to be forgotten",
        UNCLAIMED,
        observed(AT),
        Step(replace(UNCLAIMED, poll_at_ms=None)),
    ),
    ignored(
        "a second observation of a foreign response is ignored",
        replace(UNCLAIMED, poll_at_ms=None),
        observed(AT),
        Ignored.DUPLICATE,
    ),
    ignored(
        "a 404 does not make an unclaimed response foreign",
        UNCLAIMED,
        observed(AT, "missing"),
        Ignored.STALE,
    ),
    ignored("a failed poll leaves the next one as it is", UNCLAIMED, poll_failed(AT), Ignored.STALE),
    Case(
        "a webhook makes a poll and settles nothing",
        RUNNING,
        webhook(AT),
        Step(replace(RUNNING, polls=1, webhooks=webhooks(AT)), (poll(AT, "wh_1", "webhook"),)),
    ),
    ignored(
        "a repeated webhook makes no poll", replace(RUNNING, webhooks=webhooks(T0)), webhook(AT), Ignored.DUPLICATE
    ),
    ignored("a second claim is ignored", RUNNING, claimed(AT, attempt=2), Ignored.DUPLICATE),
    Case("a second create's claim gives way", RUNNING, claimed(AT, job_id="x"), Step(RUNNING, GIVEN_AWAY)),
    ignored("another job can't release it", RUNNING, released(AT, job_id="x"), Ignored.CONFLICT),
    Case(
        "what was made elsewhere is polled at once, and any answer is taken",
        AbsentResponse(),
        claimed(CLAIM_AT, made_elsewhere=True),
        Step(
            replace(ELSEWHERE, polls=1, poll_at_ms=CLAIM_AT + 20_000),
            (poll(CLAIM_AT, f"{RESP}/claimed", "claim", job_id=None),),
        ),
    ),
    Case(
        "an adoption of another tenant's response is refused, without naming its job",
        replace(RUNNING, claim=replace(claim(), job_id="other:job", tenant="other")),
        claimed(AT, made_elsewhere=True),
        Step(replace(RUNNING, claim=replace(claim(), job_id="other:job", tenant="other")), (TAKEN,)),
    ),
    Case(
        "an adoption of a response of the same tenant is refused, and names its job",
        RUNNING,
        claimed(AT, job_id="adopted_1", made_elsewhere=True),
        Step(RUNNING, (adoption_refused(AT, job_id="adopted_1", message=f"It belongs to the job {JOB}."),)),
    ),
    Case(
        "after the end, too",
        ENDED,
        claimed(AT, job_id="adopted_1", tenant="other", made_elsewhere=True),
        Step(ENDED, (adoption_refused(AT, job_id="adopted_1"),)),
    ),
    Case(
        "the claim of a create takes over what was adopted",
        ELSEWHERE,
        claimed(AT, **OTHER_JOB),  # type: ignore[arg-type]
        Step(
            RunningResponse(replace(claim(AT), job_id="other:job", tenant="other"), AT + 20_000),
            (TAKEN,),
        ),
    ),
    Case(
        "after the end, too: it is polled again for the job that created it",
        replace(ENDED, claim=ELSEWHERE.claim),
        claimed(AT, **OTHER_JOB),  # type: ignore[arg-type]
        Step(
            RunningResponse(replace(claim(AT), job_id="other:job", tenant="other"), AT + 20_000),
            (TAKEN,),
        ),
    ),
    Case(
        "an adopted response whose metadata name another job is given back, and its end stays secret",
        ELSEWHERE,
        observed(AT, raw_status="completed", response=REQUEST, **OTHER_JOB),  # type: ignore[arg-type]
        Step(
            Unclaimed(CLAIM_AT, ReceivedWebhooks(), None, AT + FORGET_AFTER),
            (
                accepted(
                    AT,
                    status="completed",
                    adopted=True,
                    poll_at_ms=AT + 30_000,
                    **OTHER_JOB,  # type: ignore[arg-type]
                ),
                TAKEN,
            ),
        ),
    ),
    Case(
        "an adopted response that names no job settles",
        ELSEWHERE,
        observed(AT),
        Step(
            Ended(ELSEWHERE.claim, "completed", AT + FORGET_AFTER),
            (settled(AT, id=f"{RESP}/settled/{JOB}", found_by="poll", polls=0),),
        ),
    ),
    Case(
        "a release cancels no adopted response before a poll has shown its owner",
        ELSEWHERE,
        released(AT),
        Step(replace(ELSEWHERE, released_at_ms=AT)),
    ),
    Case(
        "until then its timer polls",
        replace(ELSEWHERE, released_at_ms=AT),
        response_timer(T0 + 20_000),
        Step(
            replace(ELSEWHERE, released_at_ms=AT, polls=1, poll_at_ms=T0 + 80_000),
            (poll(T0 + 20_000, f"{RESP}/timer/{T0 + 20_000}", "timer", job_id=None),),
        ),
    ),
    Case(
        "and then cancels",
        replace(ELSEWHERE, released_at_ms=AT, sight=SeenSoFar("queued", CLAIM_AT)),
        response_timer(T0 + 20_000),
        Step(
            replace(ELSEWHERE, released_at_ms=AT, polls=1, poll_at_ms=T0 + 80_000, sight=SeenSoFar("queued", CLAIM_AT)),
            (cancel(T0 + 20_000, f"{RESP}/timer/{T0 + 20_000}/cancel", job_id=None),),
        ),
    ),
    Case(
        "a terminal observation settles the attempt",
        replace(RUNNING, polls=2),
        observed(AT, provider_created_at_ms=T0, provider_ended_at_ms=AT - 5),
        Step(
            ENDED,
            (settled(AT, found_by="poll", polls=2, provider_created_at_ms=T0, provider_ended_at_ms=AT - 5),),
        ),
    ),
    ignored(
        "an observation that it still runs as it did, to be polled later than planned, is ignored",
        replace(RUNNING, sight=SeenSoFar("queued", CLAIM_AT)),
        observed(AT, "running", raw_status="queued"),
        Ignored.STALE,
    ),
    Case(
        "the first sight of a status counts from the acceptance",
        RUNNING,
        observed(AT, "running", raw_status="queued"),
        Step(replace(RUNNING, sight=SeenSoFar("queued", CLAIM_AT))),
    ),
    Case(
        "another status is a change",
        replace(RUNNING, sight=SeenSoFar("queued", CLAIM_AT, missing_since_ms=AT - 5)),
        observed(AT, "running", raw_status="in_progress"),
        Step(replace(RUNNING, sight=SeenSoFar("in_progress", AT))),
    ),
    Case(
        "a release cancels at once, and again soon",
        RUNNING,
        released(AT),
        Step(replace(RUNNING, released_at_ms=AT, poll_at_ms=T0 + 20_000), (cancel(AT, f"{RESP}/cancel"),)),
    ),
    ignored("a repeated release is ignored", replace(RUNNING, released_at_ms=AT), released(AT), Ignored.DUPLICATE),
    Case(
        "the timer of a released response is a cancel",
        replace(RUNNING, released_at_ms=AT),
        response_timer(T0 + 20_000),
        Step(
            replace(RUNNING, released_at_ms=AT, polls=1, poll_at_ms=T0 + 80_000),
            (cancel(T0 + 20_000, f"{RESP}/timer/{T0 + 20_000}/cancel"),),
        ),
    ),
    ignored("a release of nothing is ignored", AbsentResponse(), released(AT), Ignored.UNKNOWN_KEY),
    ignored("a release of an unclaimed response is stale", UNCLAIMED, released(AT), Ignored.STALE),
    ignored("a release after the end is late", ENDED, released(AT), Ignored.LATE),
    Case(
        "a response that is claimed as released is cancelled at once",
        AbsentResponse(),
        claimed(AT, released=True),
        Step(RunningResponse(claim(AT), AT + 20_000, released_at_ms=AT), (cancel(AT, f"{RESP}/cancel"),)),
    ),
    Case(
        "an observation that it runs may bring the next poll forward",
        RUNNING,
        observed(AT, "running", raw_status="queued", next_poll_at_ms=AT + 5),
        Step(replace(RUNNING, poll_at_ms=AT + 5, sight=SeenSoFar("queued", CLAIM_AT))),
    ),
    Case(
        "a failed poll may bring the next one forward",
        RUNNING,
        poll_failed(AT, next_poll_at_ms=AT + 5),
        Step(replace(RUNNING, poll_at_ms=AT + 5)),
    ),
    ignored("a failed poll never puts the next one off", RUNNING, poll_failed(AT), Ignored.STALE),
    Case(
        "a running response is looked at when its time comes",
        RUNNING,
        response_timer(T0 + 20_000),
        Step(
            replace(RUNNING, poll_at_ms=T0 + 80_000, polls=1),
            (poll(T0 + 20_000, f"{RESP}/timer/{T0 + 20_000}", "timer"),),
        ),
    ),
    ignored("a timer of an earlier plan is ignored", RUNNING, response_timer(T0 + 19_999), Ignored.STALE),
    ignored("a webhook after the end is late", ENDED, webhook(AT), Ignored.LATE),
    ignored("a claim after the end is late", ENDED, claimed(AT), Ignored.LATE),
    ignored("a second observation of the end is late", ENDED, observed(AT), Ignored.LATE),
    ignored("a failed poll after the end is late", ENDED, poll_failed(AT), Ignored.LATE),
    ignored("a timer of a poll that was planned before the end is stale", ENDED, response_timer(AT), Ignored.STALE),
    Case(
        "an ended response is forgotten when its window ends",
        ENDED,
        response_timer(AT + FORGET_AFTER),
        Step(AbsentResponse()),
    ),
    ignored("a moved deadline of nothing is ignored", AbsentResponse(), deadline_moved(AT, T0), Ignored.UNKNOWN_KEY),
    ignored("a moved deadline of an unclaimed response is stale", UNCLAIMED, deadline_moved(AT, T0), Ignored.STALE),
    Case(
        "a moved deadline moves the last poll before it",
        RUNNING,
        deadline_moved(AT, AT + 25_000),
        Step(RunningResponse(replace(claim(), last_poll_at_ms=AT + 15_000, change=1), AT + 15_000)),
    ),
    ignored(
        "a released response has no deadline to move",
        replace(RUNNING, released_at_ms=AT),
        deadline_moved(AT, T0),
        Ignored.STALE,
    ),
    ignored("the deadline of another job moves nothing", RUNNING, deadline_moved(AT, T0, job_id="x"), Ignored.CONFLICT),
    ignored("a moved deadline after the end is late", ENDED, deadline_moved(AT, T0), Ignored.LATE),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.said.replace(" ", "_"))
def test_the_step_is_as_written_down(case: Case) -> None:
    assert step(case.given, case.when) == case.then  # type: ignore[arg-type]


def test_no_pair_of_state_and_fact_is_left_out() -> None:
    states = (AbsentResponse, Unclaimed, RunningResponse, Ended)
    facts = (
        WebhookReceived,
        ResponseClaimed,
        ResponseReleased,
        ResponseDeadlineMoved,
        ResponseObserved,
        PollFailed,
        ResponseTimerFired,
    )
    assert {(type(case.given), type(case.when)) for case in CASES} == set(product(states, facts))


def test_every_reason_to_ignore_that_a_response_has_is_met() -> None:
    met = {case.then.ignored for case in CASES} - {None}
    assert met == {Ignored.UNKNOWN_KEY, Ignored.DUPLICATE, Ignored.STALE, Ignored.LATE, Ignored.CONFLICT}


@pytest.mark.parametrize(
    ("state", "due"),
    [
        (AbsentResponse(), None),
        (UNCLAIMED, T0 + 15_000),
        (replace(UNCLAIMED, poll_at_ms=None), T0 + FORGET_AFTER),
        (RUNNING, T0 + 20_000),
        (ENDED, AT + FORGET_AFTER),
    ],
)
def test_the_due_time_of_each_state(state: ResponseState, due: int | None) -> None:
    assert due_ms(state) == due
