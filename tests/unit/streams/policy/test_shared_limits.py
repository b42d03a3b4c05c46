"""What workers tell each other of days and of the provider's limits, and what a restart knows of them."""

from random import Random

import pytest

from schemas.lanes import DayUsed, LimitsLearned
from streams.policy.admission import Admission, Grant
from streams.policy.day_use import AWAY_MS, DAY_MS, TELL_WITHIN_MS, UNTOLD_MAX, DayUse
from streams.policy.limits import read_rules
from streams.policy.rates import LimitsTold
from streams.policy.shared_limits import SharedLimits
from streams.policy.sizes import Asked
from streams.policy.waiting import Waiter
from tests.properties.lending import ACCOUNT, PARTITIONS, T0, TICK_MS, Fleet, Worker

DAY = 2_000_000
RULES = read_rules(f'[{{"tokens_per_day": {DAY}}}, {{"tenant": "small", "tokens_per_day": {DAY // 10}}}]')
JOB = 2_000.0
"""What a job is expected to use."""
FOUND = read_rules('[{"discover": true}]')


def fill(worker: Worker, count: int, tenant: str = "t", at: str = "") -> None:
    """`count` jobs wait at the worker's partitions."""
    owned = sorted(worker.owned)
    for number in range(count):
        key = f"{worker.name}{at}{tenant}{number}".encode()
        asked = Asked(tenant, "m", 4_000, 1_000)
        worker.admission.put(Waiter(owned[number % len(owned)], key, asked, T0 + 10 * DAY_MS), T0)


def let_go(fleet: Fleet, ms: int) -> list[tuple[str, tuple[int, bytes]]]:
    """Jobs begin as there is room. Returns who began which."""
    begun = []
    for _ in range(ms // TICK_MS):
        fleet.tick()
        for worker in fleet.workers:
            while worker.alive and isinstance(turn := worker.admission.next("m", fleet.now_ms), Grant):
                begun.append((worker.name, (turn.waiter.partition, turn.waiter.key)))
    return begun


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_day_that_one_worker_alone_needs_is_used_by_it_and_not_exceeded(workers: int) -> None:
    fleet = Fleet(RULES, workers, Random(1), (20, 150))
    fill(fleet.workers[0], 1_500)
    begun = let_go(fleet, 240_000)
    assert DAY * 0.98 <= len(begun) * JOB <= DAY


@pytest.mark.parametrize("delay_ms", [(20, 150), (1_000, 3_000)])
def test_a_day_that_all_need_at_once_is_exceeded_by_the_bound_at_most(delay_ms: tuple[int, int]) -> None:
    workers = 4
    fleet = Fleet(RULES, workers, Random(1), delay_ms)
    for worker in fleet.workers:
        fill(worker, 1_000)
    begun = let_go(fleet, 240_000 if delay_ms[0] < 1_000 else 400_000)
    bound = (workers - 1) * (2 * UNTOLD_MAX * DAY + 2 * JOB)
    assert DAY * 0.98 <= len(begun) * JOB <= DAY + bound


def test_without_the_topic_each_worker_has_its_part_of_the_day() -> None:
    fleet = Fleet(RULES, 2, Random(1), (20, 150))
    for worker in fleet.workers:
        worker.reads = False
        fill(worker, 1_500)
    begun = let_go(fleet, 4 * AWAY_MS)
    assert DAY * 0.98 <= len(begun) * JOB <= DAY


def test_a_restart_forgets_no_more_of_the_day_than_ten_seconds() -> None:
    """All workers end at once, with attempts in flight, and other processes take their place."""
    fleet = Fleet(RULES, 2, Random(1), (20, 150))
    for worker in fleet.workers:
        fill(worker, 200)
        fill(worker, 20, "small")
    begun = let_go(fleet, 60_000)
    for name, place in begun[::2]:
        worker = next(each for each in fleet.workers if each.name == name)
        worker.admission.accepted(place, fleet.now_ms)
        worker.admission.ended(place, (1_500, 500), fleet.now_ms)
    fleet.run(TELL_WITHIN_MS + 1_000)
    again = Fleet(RULES, 2, Random(2), (20, 150))
    again.now_ms = fleet.now_ms
    for worker in again.workers:
        worker.name += "-again"
        worker.limits = SharedLimits(worker.admission, RULES, ACCOUNT, worker.name, PARTITIONS)
        for fact, _ in fleet.log:
            worker.limits.take(fact, again.now_ms)
    again.divide()
    for name, (partition, key) in begun[1::2]:  # The rows tell what runs on.
        worker = next(each for each in again.workers if partition in each.owned)
        tenant = "small" if b"small" in key else "t"
        asked = Asked(tenant, "m", 4_000, 1_000)
        worker.admission.began((partition, key), asked, "normal", again.now_ms, accepted_at_ms=again.now_ms - 1_000)
        assert name in worker.name
    for worker in again.workers:
        fill(worker, 2_000, at="again")
        fill(worker, 200, "small", at="again")
    later = let_go(again, 240_000)
    assert DAY * 0.97 <= (len(begun) + len(later)) * JOB <= DAY * 1.03
    small = [place for _, place in begun + later if b"small" in place[1]]
    assert len(small) * JOB <= DAY // 10 * 1.03 + 2 * JOB


def test_a_partition_that_moves_takes_what_it_used_with_it() -> None:
    fleet = Fleet(RULES, 2, Random(1), (20, 150))
    fill(fleet.workers[0], 400)
    before = let_go(fleet, 60_000)
    fleet.workers[0].alive = False
    fleet.divide()
    fill(fleet.workers[1], 1_500)
    for _, (partition, key) in before:
        asked = Asked("t", "m", 4_000, 1_000)
        fleet.workers[1].admission.began((partition, key), asked, "normal", fleet.now_ms, accepted_at_ms=fleet.now_ms)
    after = let_go(fleet, 240_000)
    assert DAY * 0.98 <= (len(before) + len(after)) * JOB <= DAY * 1.01


def test_a_new_day_begins_anew_and_facts_of_another_day_are_passed_over() -> None:
    day = DayUse(10_000)
    day.take(0, 9_000, 0)
    assert day.wait_ms(2_000, 1_000) == DAY_MS - 1_000
    assert not day.wait_ms(2_000, DAY_MS)
    old = DayUsed(
        id="w/1", at_ms=0, account=ACCOUNT, model="m", worker="w", day=0, used={1: 9_000}, reserved={}
    )  # fmt: skip
    day.heard(old, DAY_MS, own=False)
    assert day.left == 10_000


def refused(fleet: Fleet, worker: Worker, told_ms: int = 500) -> None:
    """A create of the worker was accepted, and the next one refused."""
    asked = Asked("t", "m", 4_000, 1_000)
    for number, limited in enumerate((False, True)):
        place = (min(worker.owned), f"{fleet.now_ms}{number}".encode())
        worker.admission.began(place, asked, "normal", fleet.now_ms)
        if limited:
            worker.admission.refused(place, fleet.now_ms, limited=True, told_ms=told_ms)
        else:
            worker.admission.accepted(place, fleet.now_ms)


def test_what_one_worker_is_refused_for_all_know() -> None:
    fleet = Fleet(FOUND, 3, Random(1), (20, 150))
    fleet.run(30_000)
    refused(fleet, fleet.workers[0])
    fleet.run(1_000)
    rates = [worker.limiter.tokens_per_min for worker in fleet.workers]
    assert rates == pytest.approx([rates[0]] * 3, rel=1e-3)
    assert fleet.told("limits_learned") == 1, "what was learned from another one is not told again"


def test_two_refusals_at_once_leave_all_workers_with_the_lower_rate() -> None:
    fleet = Fleet(FOUND, 3, Random(1), (20, 150))
    fleet.run(30_000)
    for worker in fleet.workers[:2]:
        refused(fleet, worker)
    fleet.run(1_000)
    rates = [worker.limiter.tokens_per_min for worker in fleet.workers]
    assert rates == pytest.approx([rates[0]] * 3, rel=1e-3)


def test_a_told_limit_reaches_the_workers_that_make_no_creates_and_one_that_starts_later() -> None:
    fleet = Fleet(FOUND, 3, Random(1), (20, 150))
    fleet.run(1_000)
    fleet.workers[0].limiter.told(LimitsTold(requests_per_min=500, tokens_per_min=80_000), fleet.now_ms)
    fleet.run(1_000)
    late = Admission(FOUND, ACCOUNT)
    limits = SharedLimits(late, FOUND, ACCOUNT, "late", PARTITIONS)
    for fact, _ in fleet.log:
        limits.take(fact, fleet.now_ms)
    limits.own(range(PARTITIONS))
    late.may_spend(Asked("t", "m", 4_000, 1_000), fleet.now_ms)
    limiters = [worker.limiter for worker in fleet.workers] + [dict(late.limiters("m"))[None]]
    assert [(each.tokens_per_min, each.requests_per_min) for each in limiters] == [(80_000, 500)] * 4
    assert fleet.told("limits_learned") == 1


def test_headers_that_change_with_each_answer_cost_one_record_a_second() -> None:
    fleet = Fleet(FOUND, 2, Random(1), (20, 150))
    for number in range(100):
        fleet.tick()
        fleet.workers[0].limiter.told(LimitsTold(tokens_per_min=80_000 + number), fleet.now_ms)
    assert fleet.told("limits_learned") <= 11


def test_facts_of_another_account_are_passed_over() -> None:
    fleet = Fleet(FOUND, 1, Random(1), (20, 150))
    fleet.run(1_000)
    worker = fleet.workers[0]
    before = worker.limiter.tokens_per_min
    worker.limits.take(
        LimitsLearned(id="x/1", at_ms=T0, account="1" * 8, model="m", worker="x", tokens_per_min=1), T0
    )  # fmt: skip
    assert worker.limiter.tokens_per_min == before


def test_what_all_workers_were_served_shows_the_limit_wherever_it_was_served() -> None:
    """Two workers with equal shares: one was served 30,000 tokens a minute between two refusals, the other 70,000."""
    fleet = Fleet(FOUND, 2, Random(1), (20, 150))
    one, two = fleet.workers
    fleet.run(2_000)
    one.wants = two.wants = 2.0  # Both tell.
    fleet.run(3_000)
    for worker in fleet.workers:
        worker.limiter._found = 120_000.0
    refused(fleet, one)
    for _ in range(120):
        fleet.run(1_000)
        for worker, tokens in ((one, 500.0), (two, 1_166.7)):
            worker.limiter.take(tokens, fleet.now_ms)
            worker.limiter.answered(tokens, fleet.now_ms)
            worker.limiter.ended(tokens, tokens)
    refused(fleet, one)
    assert one.limiter._ceiling == pytest.approx(100_000, rel=0.05)
