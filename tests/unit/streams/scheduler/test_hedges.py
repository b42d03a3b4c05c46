"""Permissions for hedges, from the facts of the jobs log; and the timers that ask for them."""

from typing import Any

import pytest

from schemas.base import NEVER_SENT
from schemas.hedges import HedgePermit, HedgeTerms
from schemas.jobs import JobFact
from schemas.responses import ResponseTimerFired
from schemas.results import AttemptBrief, HedgeBrief, JobResult
from streams.fold import response
from streams.fold.batch import JOB_FOLD, Folded, fold_batch
from streams.fold.response_states import Hedge
from streams.fold.rows import encode_response_state, encode_row
from streams.policy.admission import Admission
from streams.policy.hedge_permits import BUSY_AGAIN_MS, UNKNOWN_VALID_MS, NoHedgeNow, Slow
from streams.policy.hedging import AGAIN_MS, LANE_REST_MS, REST_MS
from streams.policy.latency import Latencies
from streams.policy.limits import read_rules
from streams.policy.polls import PollPolicy, Webhooks
from streams.policy.sizes import Asked
from streams.policy.waiting import Waiter
from streams.scheduler.admissions import Admissions
from streams.scheduler.due import Due, DueIndex
from streams.scheduler.hedge_runs import HedgeRuns
from streams.scheduler.hedge_timers import HedgeTimers
from streams.scheduler.hedges import Hedges
from streams.scheduler.response_timers import response_timer
from tests.support.builders import (
    DEADLINE,
    JOB,
    MODEL,
    PERMIT,
    POLICY,
    RESP,
    T0,
    TENANT,
    accepted,
    claimed,
    observed,
    rejected,
    settled,
    submitted,
    unknown,
)
from tests.unit.streams.fold.states import CLAIM_AT, claim, result
from tests.unit.streams.scheduler.records import as_records

HEDGING = POLICY.model_copy(update={"hedge": True})
SLOW = Slow(RESP, MODEL, TENANT, T0, DEADLINE)
LATE = T0 + 110_000


class Rig:
    """A model whose runs took up to 100 s, and as many submissions as are asked for."""

    def __init__(self, ends: int = 200, submissions: int = 0, **parts: Any) -> None:
        self.latencies = Latencies()
        self.end(ends)
        self.hedges = Hedges(self.latencies, 0.02, **parts)
        for number in range(submissions):
            self.take(submitted(LATE, job_id=f"other_{number}", policy=HEDGING))

    def end(self, ends: int) -> None:
        for number in range(ends):
            self.latencies.began(f"r{number}", (MODEL, "high", "small"), T0, T0)
            self.latencies.ended(f"r{number}", 100_000 * (number + 1) // ends, T0 + 100_000)

    def take(self, *facts: JobFact) -> None:
        folded: Folded[Any] = Folded()
        folded.facts = [(fact.key.encode(), fact) for fact in facts]
        self.hedges.taken(0, folded)

    def result(self, won: str | None, at_ms: int, *attempts: int) -> None:
        folded: Folded[Any] = Folded()
        brief = HedgeBrief(attempt=2, beside=1, begun_after_ms=1, won=won)
        told: JobResult = result("completed", at_ms, hedge=brief)
        folded.outputs = [
            told.model_copy(
                update={
                    "attempts": tuple(AttemptBrief(attempt=number, outcome="running") for number in attempts or (1, 2))
                }
            )
        ]
        self.hedges.taken(0, folded)

    def why(self, now_ms: int = LATE, slow: Slow = SLOW) -> str:
        answer = self.hedges.ask(slow, now_ms)
        return answer.why if isinstance(answer, NoHedgeNow) else "permitted"


@pytest.fixture
def rig() -> Rig:
    return Rig(submissions=1_000)


def test_a_response_that_is_old_enough_is_permitted_a_hedge_and_says_from_what(rig: Rig) -> None:
    permit = rig.hedges.ask(SLOW, LATE)
    assert isinstance(permit, HedgePermit)
    assert (permit.age_ms, permit.share, permit.ended) == (110_000, 0.02, 200)
    assert 96_000 <= permit.after_ms <= 100_000


@pytest.mark.parametrize("lag_ms", [0, 3_000, 600_000])
def test_the_age_does_not_depend_on_how_late_the_log_is_read(lag_ms: int) -> None:
    """Runs of 1 to 100 s; after an outage their claims are folded together with their ends."""
    latencies, now_ms = Latencies(), T0
    runs = HedgeRuns(latencies, lambda: now_ms)
    for number in range(200):
        began, ended = T0 + 1_000 * number, T0 + 1_000 * number + 500 * (number + 1)
        now_ms = began + lag_ms
        stamps = {"provider_created_at_ms": began, "provider_ended_at_ms": ended}
        runs.took(0, claimed(began, response_id=f"r{number}", hedge=HedgeTerms(model=MODEL)))
        now_ms = ended + lag_ms
        runs.took(0, observed(ended, "completed", response_id=f"r{number}", **stamps))
    assert latencies.curve((MODEL,), now_ms).quantile_ms(0.5) == pytest.approx(50_000, rel=0.03)


def test_a_younger_one_asks_again_at_that_age(rig: Rig) -> None:
    answer = rig.hedges.ask(SLOW, T0 + 50_000)
    assert isinstance(answer, NoHedgeNow)
    assert answer.why == "young"
    assert answer.ask_at_ms == rig.hedges.hedge_at_ms(RESP, MODEL, T0)


@pytest.mark.parametrize("ends", [0, 99])
def test_nothing_is_permitted_before_100_have_ended(ends: int) -> None:
    rig = Rig(ends, submissions=1_000)
    assert rig.hedges.ask(SLOW, LATE) == NoHedgeNow("unknown", LATE + AGAIN_MS)
    assert rig.hedges.hedge_at_ms(RESP, MODEL, T0) is None


def test_what_is_recalled_after_a_start_counts_for_responses_that_are_accepted_moments_later() -> None:
    rig = Rig(0, submissions=1_000)
    assert rig.hedges.hedge_at_ms(RESP, MODEL, LATE) is None
    rig.end(200)
    assert rig.hedges.hedge_at_ms("resp_next", MODEL, LATE + UNKNOWN_VALID_MS) is not None


def test_other_models_say_nothing(rig: Rig) -> None:
    assert rig.why(slow=Slow(RESP, "model-2", TENANT, T0, DEADLINE)) == "unknown"


def test_the_narrowest_class_that_knows_enough_counts(rig: Rig) -> None:
    """Of the small requests 200 ended within 100 s. The large ones take ten times as long, and 100 of them ended."""
    for number in range(100):
        rig.latencies.began(f"l{number}", (MODEL, "high", "large"), T0, T0)
        rig.latencies.ended(f"l{number}", 10_000 * (number + 1), LATE)
    rig.latencies.began(RESP, (MODEL, "high", "large"), T0, LATE)
    rig.latencies.began("small", (MODEL, "high", "small"), T0, LATE)
    assert rig.why() == "young"
    assert rig.why(slow=Slow("small", MODEL, TENANT, T0, DEADLINE)) == "permitted"


def test_the_budget_is_a_share_of_the_submissions_that_may_be_hedged() -> None:
    rig = Rig()
    assert rig.hedges.ask(SLOW, LATE) == NoHedgeNow("budget", LATE + AGAIN_MS)
    rig.take(*(submitted(LATE, job_id=f"plain_{number}") for number in range(1_000)))
    assert rig.why() == "budget"
    rig.take(*(submitted(LATE, job_id=f"may_{number}", policy=HEDGING) for number in range(51)))
    assert [rig.why(), rig.why()] == ["permitted", "budget"]


def test_no_hedge_begins_with_too_little_time_left(rig: Rig) -> None:
    assert rig.why(slow=Slow(RESP, MODEL, TENANT, T0, LATE + 20_000)) == "deadline"


def test_a_lane_in_trouble_stops_hedges_until_it_was_well_for_ten_minutes() -> None:
    ill = [True]
    rig = Rig(submissions=1_000, troubled=lambda model: model == MODEL and ill[0])
    assert rig.hedges.ask(SLOW, LATE) == NoHedgeNow("lane", LATE + LANE_REST_MS)
    ill[0] = False
    assert rig.why(LATE + LANE_REST_MS - 1) == "lane"
    rig.take(submitted(LATE + LANE_REST_MS, policy=HEDGING))
    assert rig.why(LATE + LANE_REST_MS) == "permitted"


def test_jobs_that_wait_for_the_lane_go_first() -> None:
    rig = Rig(submissions=1_000, busy=lambda model, tenant: (model, tenant) == (MODEL, TENANT))
    assert rig.hedges.ask(SLOW, LATE) == NoHedgeNow("busy", LATE + BUSY_AGAIN_MS)


def fold(rig: Rig, *facts: JobFact) -> None:
    """Facts as the job fold takes them."""
    folded: Folded[Any] = fold_batch(JOB_FOLD, lambda _: None, as_records(facts))
    assert not folded.poisons
    rig.hedges.taken(0, folded)


@pytest.mark.parametrize(
    "fact", [rejected(LATE), settled(LATE, "failed", cause="limited")], ids=["a create", "a response"]
)
def test_any_429_stops_the_hedges_of_its_lane(rig: Rig, fact: JobFact) -> None:
    fold(rig, submitted(policy=HEDGING), *([] if fact.type == "attempt_rejected" else [accepted(T0 + 5)]), fact)
    assert rig.why() == "lane"


@pytest.mark.parametrize(("failed", "why"), [(5, "permitted"), (6, "lane")])
def test_many_failures_stop_the_hedges_of_their_lane(rig: Rig, failed: int, why: str) -> None:
    for number in range(failed):
        job_id = f"job_{number}"
        fold(rig, submitted(job_id=job_id), unknown(LATE, job_id=job_id))
    assert rig.why() == why


def test_a_refusal_of_the_request_itself_says_nothing_of_the_lane(rig: Rig) -> None:
    for number in range(20):
        job_id = f"job_{number}"
        fold(rig, submitted(job_id=job_id), rejected(LATE, job_id=job_id, cause="never"))
    assert rig.why() == "permitted"


@pytest.mark.parametrize(("code", "why"), [(NEVER_SENT, "lane"), ("command_expired", "permitted")])
def test_creates_that_no_worker_began_say_nothing_of_the_lane(rig: Rig, code: str, why: str) -> None:
    """As after a worker was gone for a while. Those to which no connection was made do."""
    for number in range(20):
        job_id = f"job_{number}"
        fold(rig, submitted(job_id=job_id), rejected(LATE, job_id=job_id, cause="unsent", code=code))
    assert rig.why() == why


def test_hedges_that_lose_stop_their_class(rig: Rig) -> None:
    for _ in range(18):
        rig.result("first", LATE)
    assert rig.hedges.ask(SLOW, LATE) == NoHedgeNow("class", LATE + REST_MS)


@pytest.mark.parametrize("won", ["hedge", None])
def test_hedges_that_win_or_decide_nothing_do_not(rig: Rig, won: str | None) -> None:
    for _ in range(40):
        rig.result(won, LATE)
    assert rig.why() == "permitted"


def test_a_hedge_that_was_refused_has_not_lost(rig: Rig) -> None:
    for _ in range(40):
        rig.result("first", LATE, 1)
    assert rig.why() == "permitted"


# ---- timers

ASK_AT = T0 + 50_000
POLL_AT = T0 + 200_000
RUNNING = response.RunningResponse(claim(), POLL_AT, hedge=Hedge(MODEL, ASK_AT))


class Timers:
    def __init__(self, rig: Rig, state: response.RunningResponse, now_ms: int) -> None:
        self.index = DueIndex(lambda: now_ms, ahead_ms=DEADLINE)
        self.index.own([0])
        webhooks = Webhooks(PollPolicy())
        timers = HedgeTimers(lambda *asked: response_timer(webhooks, *asked), self.index, rig.hedges)
        due_ms = response.due_ms(state)
        assert due_ms is not None
        self.index.put(0, RESP.encode(), due_ms)
        due = Due(due_ms, RESP.encode(), 0)
        self.fired: Any = timers(due, encode_row(encode_response_state(state), 3), now_ms)
        self.index.taken(due)

    def next_at(self, due_ms: int | None) -> bool:
        return due_ms is not None and self.index.knows(Due(due_ms, RESP.encode(), 0))


def test_a_response_that_asks_in_vain_asks_again_without_a_record(rig: Rig) -> None:
    timers = Timers(rig, RUNNING, ASK_AT)
    age = rig.hedges.hedge_at_ms(RESP, MODEL, CLAIM_AT)
    assert (timers.fired, timers.next_at(age)) == (None, True)


def test_it_is_polled_in_time_meanwhile() -> None:
    rig = Rig()
    timers = Timers(rig, RUNNING, POLL_AT - 5)
    assert (timers.fired, timers.next_at(POLL_AT)) == (None, True)
    fired = Timers(rig, RUNNING, POLL_AT).fired
    assert isinstance(fired, ResponseTimerFired)
    assert (fired.due_ms, fired.permit, fired.hedge_at_ms) == (POLL_AT, None, POLL_AT + AGAIN_MS)


def test_a_permission_is_stamped_on_the_timer(rig: Rig) -> None:
    fired = Timers(rig, RUNNING, LATE).fired
    assert isinstance(fired, ResponseTimerFired)
    assert (fired.due_ms, fired.next_poll_at_ms, fired.id) == (ASK_AT, POLL_AT, f"{RESP}/timer/{ASK_AT}")
    assert fired.permit is not None
    assert response.step(RUNNING, fired).outputs


def test_the_timer_of_a_poll_says_when_to_ask_once_that_is_known(rig: Rig) -> None:
    """The class knew nothing when the response was accepted."""
    state = response.RunningResponse(claim(), ASK_AT, hedge=Hedge(MODEL, None))
    fired = Timers(rig, state, ASK_AT).fired
    assert fired.hedge_at_ms == rig.hedges.hedge_at_ms(RESP, MODEL, CLAIM_AT)


def test_one_permission_at_a_time(rig: Rig) -> None:
    state = response.RunningResponse(claim(), LATE, hedge=Hedge(MODEL, None, PERMIT, LATE - 5))
    fired = Timers(rig, state, LATE).fired
    assert (fired.permit, fired.hedge_at_ms) == (None, None)


def test_a_response_without_hedges_has_the_timer_it_always_had(rig: Rig) -> None:
    state = response.RunningResponse(claim(), LATE)
    fired = Timers(rig, state, LATE).fired
    row = encode_row(encode_response_state(state), 3)
    assert fired == response_timer(Webhooks(PollPolicy()), Due(LATE, RESP.encode(), 0), row, LATE)
    assert fired.model_dump(exclude_none=True).keys().isdisjoint({"permit", "hedge_at_ms"})
    assert state.claim.job_id == JOB


def test_a_hedge_has_room_where_no_job_waits_and_the_limits_allow_one_more_attempt() -> None:
    admission = Admission(read_rules('[{"requests_per_min": 40}]'), "a")
    admissions = Admissions(admission, lambda: T0, 1)
    admissions.own([0])
    room = [admissions.room(MODEL, TENANT)]
    waiter = Waiter(0, b"j", Asked(TENANT, MODEL, 100, 10), DEADLINE, "normal")
    admission.put(waiter, T0)
    room.append(admissions.room(MODEL, TENANT))
    admission.drop((0, b"j"))
    room.append(admissions.room(MODEL, TENANT))
    for number in range(3):
        admission.began((0, b"%d" % number), waiter.asked, "normal", T0)
    room.append(admissions.room(MODEL, TENANT))
    assert room == [True, False, True, False]


@pytest.mark.parametrize("limit", ["concurrent", "tokens_per_min"])
def test_a_hedge_has_no_room_under_a_limit_that_is_used_up(limit: str) -> None:
    admissions = Admissions(Admission(read_rules(f'[{{"{limit}": 1}}]'), "a"), lambda: T0, 1)
    admissions.own([0])
    assert admissions.room(MODEL, TENANT) is (limit == "concurrent")
