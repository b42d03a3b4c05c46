"""Bad input of limits: clocks that step, tenants without a rule, a rebalance in the middle, two owners of one share.

None breaks more than a stated bound of the limit, and none begins a job twice.
"""

from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.commands import CreateResponse
from schemas.jobs import JobAdmitted, Turn
from streams.fold import job
from streams.fold.job_states import Waiting
from streams.fold.step import Ignored
from streams.policy.admission import Admission, Grant
from streams.policy.buckets import BURST_S, CLOSED_MS_MAX
from streams.policy.limiter import Limiter
from streams.policy.limits import read_rules
from streams.policy.rates import LimitsTold, Rates
from tests.properties.test_admission import TOKENS, granted, waiter
from tests.support.builders import T0, submitted

PER_MIN = 60_000
MINUTE = 60_000
IN_A_MINUTE = PER_MIN * (1 + BURST_S / 60) + TOKENS
"""What one owner of the whole limit may charge in a minute: the limit, its burst, and one job."""
RULES = read_rules('[{"tokens_per_min": 60000}]')


def most_in_a_minute(charges: list[tuple[int, float]]) -> float:
    return max(
        (sum(charge for at_ms, charge in charges if start_ms <= at_ms < start_ms + MINUTE) for start_ms, _ in charges),
        default=0.0,
    )


@given(st.lists(st.integers(-120_000, 5_000), max_size=80), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_a_clock_that_steps_back_gives_no_more_than_the_time_that_passed(steps_ms: list[int], seed: int) -> None:
    """The worker's clock never goes back, but the facts of others come with the times of their clocks."""
    limiter, random = Limiter(Rates(tokens_per_min=PER_MIN, requests_per_min=600), 0), Random(seed)
    now_ms = latest_ms = 0
    taken = 0.0
    for step_ms in steps_ms:
        now_ms = max(0, now_ms + step_ms)
        latest_ms = max(latest_ms, now_ms)
        if limiter.wait(TOKENS, now_ms) is None:
            limiter.take(TOKENS, now_ms)
            taken += TOKENS
        limiter.told(
            LimitsTold(tokens_left=random.choice((None, 0.0, 1e9))), now_ms, age_ms=random.choice((-90_000, 0, 90_000))
        )
    assert taken <= PER_MIN * latest_ms / MINUTE + TOKENS + 1e-6


def test_a_tenant_without_a_rule_is_bound_by_the_lane_alone_and_beside_a_limited_one_it_does_not_wait_for_it() -> None:
    rules = read_rules('[{"tokens_per_min": 60000}, {"tenant": "small", "tokens_per_min": 600}]')
    admission = Admission(rules, "a")
    for number in range(200):
        admission.put(waiter(number, "small" if number % 2 else "free"), 0)
    served = Counter[str]()
    for now_ms in range(0, 120_000, 100):
        for grant in granted(admission, now_ms):
            served[grant.waiter.asked.tenant] += 1
    assert served["small"] <= 2
    assert served["free"] * TOKENS >= 0.9 * 2 * PER_MIN, "the lane's room goes to those that may use it"


@given(st.integers(0, 2**32), st.lists(st.integers(1, 100), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_a_rebalance_in_the_middle_charges_one_share_twice_at_most(seed: int, moves_s: list[int]) -> None:
    """Partitions move between two workers at drawn times. The former owner's grants of the minute count, too."""
    random, charges = Random(seed), list[tuple[int, float]]()
    workers = [Admission(RULES, "a"), Admission(RULES, "a")]
    owner = {partition: partition % 2 for partition in range(4)}

    def own(now_ms: int) -> None:
        for number, worker in enumerate(workers):
            mine = [partition for partition, each in owner.items() if each == number]
            worker.own(mine, len(mine) / 4, now_ms)
            for key in range(100):
                for partition in mine:
                    if (partition, key) not in begun:
                        worker.put(replace(waiter(key), partition=partition), now_ms)

    begun = set[tuple[int, int]]()
    own(0)
    moves_ms = {second * 1_000 for second in moves_s}
    for now_ms in range(0, 120_000, 100):
        if now_ms in moves_ms:
            owner[random.randrange(4)] = random.randrange(2)
            own(now_ms)
        for worker in workers:
            for grant in granted(worker, now_ms):
                place = (grant.waiter.partition, int(grant.waiter.key))
                assert place not in begun, "a job is granted twice"
                begun.add(place)
                charges.append((now_ms, grant.tokens))
    assert most_in_a_minute(charges) <= 2 * IN_A_MINUTE


def test_two_workers_that_both_believe_they_own_the_share_begin_each_job_once() -> None:
    """A frozen worker wakes up and does not know yet that its partitions moved: both grant, and the log decides."""
    workers = [Admission(RULES, "a"), Admission(RULES, "a")]
    states: dict[bytes, job.JobState] = {}
    begun, stale = Counter[bytes](), 0
    charges: list[tuple[int, float]] = []
    for number in range(120):
        key = str(number).encode()
        states[key] = job.step(job.Absent(), submitted(job_id=key.decode(), turn=Turn(waits=True))).state
        for worker in workers:
            worker.put(waiter(number), 0)
    for now_ms in range(0, 60_000, 100):
        for worker in workers:
            for turn in granted(worker, now_ms):
                key = turn.waiter.key
                admitted = JobAdmitted(
                    id=f"{key.decode()}/admitted", at_ms=T0 + now_ms, job_id=key.decode(), reserved_tokens=9,
                    waited_for="turn",
                )  # fmt: skip
                step = job.step(states[key], admitted)
                assert (step.ignored is Ignored.STALE) != isinstance(states[key], Waiting)
                states[key] = step.state
                begun[key] += sum(isinstance(output, CreateResponse) for output in step.outputs)
                stale += step.ignored is not None
                charges += [] if step.ignored else [(now_ms, turn.tokens)]
    assert set(begun.values()) == {1}
    assert stale > 0, "both granted the same jobs"
    assert most_in_a_minute(charges) <= 2 * IN_A_MINUTE
    for worker in workers:  # The one that lost gives back what it reserved.
        worker.own([], 0.0, 60_000)
        assert (len(worker), worker.waiting("m")) == (0, 0)


def test_a_share_of_nothing_grants_nothing_wild_and_a_share_that_returns_begins_empty() -> None:
    admission = Admission(RULES, "a")
    admission.own([], 0.0, 0)
    assert admission.next("m", 0) is None
    admission.own([0], 1.0, 60_000)
    for number in range(50):
        admission.put(waiter(number), 60_000)
    first = [turn for turn in granted(admission, 60_000) if isinstance(turn, Grant)]
    assert sum(turn.tokens for turn in first) <= PER_MIN * BURST_S / 60 + TOKENS


@given(st.integers(10, 10**18))
@settings(max_examples=50, deadline=None)
def test_a_usage_that_is_far_too_high_holds_its_lane_up_for_a_minute_at_most(used: int) -> None:
    """And it neither uses up a day, nor sets what the next jobs are expected to use."""
    admission = Admission(read_rules('[{"tokens_per_min": 60000, "tokens_per_day": 50000000}]'), "account")
    admission.put(waiter(0), 0)
    now_ms = MINUTE
    assert isinstance(admission.next("m", now_ms), Grant)
    admission.accepted((0, b"0"), now_ms)
    admission.ended((0, b"0"), (100, used), now_ms)
    began_ms = now_ms
    for number in range(20):
        admission.put(waiter(number + 1), now_ms)
        while not isinstance(admission.next("m", now_ms), Grant):
            now_ms += 100
            assert now_ms - began_ms <= 2 * MINUTE
    expected = admission.sizes.estimate(waiter(99).asked)
    assert expected.tokens <= 2_100_000


@given(st.integers(1, 10**15))
@settings(max_examples=50, deadline=None)
def test_a_refusal_that_tells_a_year_closes_a_lane_for_five_minutes(told_ms: int) -> None:
    limiter = Limiter(Rates(tokens_per_min=PER_MIN), 0)
    limiter.take(TOKENS, 0)
    limiter.refused(TOKENS, 0, limited=True, told_ms=told_ms)
    assert (limiter.wait(TOKENS, min(told_ms, CLOSED_MS_MAX) - 1) is not None) or told_ms == 1
    assert limiter.wait(TOKENS, min(told_ms, CLOSED_MS_MAX) + MINUTE) is None


def test_ten_thousand_tenants_use_a_limit_as_one_does() -> None:
    many, few = Admission(RULES, "account"), Admission(RULES, "account")
    for number in range(10_000):
        many.put(waiter(number, tenant=f"t-{number}"), 0)
        few.put(waiter(number), 0)
    now_ms, begun = 0, [0, 0]
    while begun[0] < 300:
        now_ms += 1_000
        for which, admission in enumerate((many, few)):
            while isinstance(admission.next("m", now_ms), Grant):
                begun[which] += 1
    assert begun[0] == begun[1]
    assert len(many) == len(few)
