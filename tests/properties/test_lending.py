"""Lent shares over random histories: never over the limit by more than the bound, and all of it used within seconds.

Decision 0042 states the bound: for each time that a share is taken back, `FRESH_MS` of what was lent.
"""

from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.base import Priority
from streams.policy.admission import Grant
from streams.policy.lending import FRESH_MS, LENT_FOR_MS, Part, divide
from streams.policy.limits import read_rules
from streams.policy.waiting import Waiter
from tests.properties.lending import ASKED, PARTITIONS, T0, TICK_MS, Fleet

RATE = read_rules('[{"tokens_per_min": 100000}]')
SLOTS = read_rules('[{"concurrent": 24}]')

parts = st.builds(Part, st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.2))


@given(st.lists(parts, min_size=1, max_size=8), st.floats(0, 1))
@example([Part(5e-324, 0.25)], 1.0)  # a product with it is rounded to it
def test_what_is_divided_is_the_whole_at_most_unless_more_is_in_flight(of: list[Part], whole: float) -> None:
    divided = divide(of, whole)
    held = sum(part.holds for part in of)
    assert sum(divided) <= max(whole, held) + 1e-6
    assert all(each >= part.holds for each, part in zip(divided, of, strict=True))
    if sum(max(part.wants, part.holds) for part in of) >= whole >= held and all(part.base > 0.01 for part in of):
        assert sum(divided) >= whole - 1e-6, "nothing is left unused while one wants it"


@given(st.integers(0, 2**32), st.integers(2, 4), st.sampled_from([(20, 150), (20, 1_500), (1_000, 6_000)]))
@settings(max_examples=8, deadline=None)
def test_shares_exceed_the_limit_by_the_bound_at_most_whatever_happens(
    seed: int, workers: int, delay_ms: tuple[int, int]
) -> None:
    """Demand comes and goes, workers die and come back, lose the topic in one or both directions, and disagree about
    the time by up to 300 ms.
    """
    random = Random(seed)
    fleet = Fleet(RATE, workers, random, delay_ms)
    for worker in fleet.workers:
        worker.skew_ms = random.randint(-300, 300)
    events, over_ms = 0, 0.0
    for _ in range(25):
        worker = random.choice(fleet.workers)
        match random.choice(("wants", "wants", "wants", "moves", "reads", "writes")):
            case "wants":
                worker.wants = random.choice((0.0, 0.1, 0.6, 2.0))
            case "moves":
                worker.alive = not worker.alive or sum(each.alive for each in fleet.workers) == 1
                fleet.divide()
            case "reads":
                worker.reads = not worker.reads
            case "writes":
                worker.writes = not worker.writes
        events += 1
        for _ in range(random.choice((300, 2_000, 15_000)) // TICK_MS):
            fleet.tick()
            over_ms += max(0.0, fleet.sum() - 1.0) * TICK_MS
            assert fleet.sum() <= 2.0 + 1e-6
    assert over_ms <= events * (FRESH_MS + 300)


@pytest.mark.parametrize("workers", [2, 4])
def test_usually_what_goes_beyond_the_limit_is_a_few_tenths_of_a_second(workers: int) -> None:
    fleet, taken_back, over_ms = Fleet(RATE, workers, Random(1), (20, 150)), 0, 0.0
    fleet.workers[0].wants = 2.0
    for _ in range(4):
        for wants in (0.0, 2.0):
            fleet.workers[1].wants = wants
            taken_back += wants > 0
            for _ in range(20_000 // TICK_MS):
                fleet.tick()
                over_ms += max(0.0, fleet.sum() - 1.0) * TICK_MS
    assert over_ms <= taken_back * 300, over_ms / taken_back


@pytest.mark.parametrize("workers", [2, 4])
def test_a_share_converges_within_seconds_and_after_a_rebalance_as_well(workers: int) -> None:
    fleet = Fleet(RATE, workers, Random(1), (20, 150))
    fleet.workers[0].wants = 2.0
    fleet.run(3_000)
    assert fleet.workers[0].share.rate >= 0.98
    fleet.workers[-1].alive = False
    fleet.divide()
    assert fleet.sum() == pytest.approx(1.0), "base shares again"
    fleet.run(8_000)
    assert fleet.workers[0].share.rate >= 0.98
    fleet.workers[-1].alive = True
    fleet.workers[-1].wants = 2.0
    fleet.divide()
    fleet.run(3_000)
    assert fleet.workers[-1].share.rate >= 1 / workers
    assert fleet.sum() <= 1 + 1e-6


def test_workers_without_need_write_nothing() -> None:
    fleet = Fleet(RATE, 4, Random(1), (20, 150))
    for worker in fleet.workers:
        worker.wants = 0.1
    fleet.run(60_000)
    assert fleet.log == []
    fleet.workers[0].wants = 2.0
    fleet.run(60_000)
    fleet.workers[0].wants = 0.0
    fleet.run(60_000)
    written = len(fleet.log)
    assert written <= 4 * 60, "one fact of each in two seconds while a share is borrowed, and few more"
    fleet.run(60_000)
    assert len(fleet.log) == written, "then nothing again"
    assert [worker.share.rate for worker in fleet.workers] == pytest.approx([0.25] * 4)


@pytest.mark.parametrize(("reads", "writes"), [(False, True), (True, False), (False, False)])
def test_a_worker_that_loses_the_topic_has_its_base_and_so_has_the_other(reads: bool, writes: bool) -> None:
    fleet = Fleet(RATE, 2, Random(1), (20, 150))
    borrower, lender = fleet.workers
    borrower.wants = 2.0
    fleet.run(5_000)
    lender.reads, lender.writes = reads, writes
    fleet.run(LENT_FOR_MS + 6_000)
    assert borrower.share.rate == pytest.approx(0.5)
    lender.wants = 2.0
    fleet.run(3_000)
    assert lender.share.rate == pytest.approx(0.5)
    lender.reads = lender.writes = True
    lender.wants = 0.0
    fleet.run(40_000)
    assert borrower.share.rate >= 0.98


def test_a_topic_that_answers_nothing_leaves_base_shares() -> None:
    fleet = Fleet(RATE, 3, Random(1), (20, 150))
    for worker in fleet.workers:
        worker.reads, worker.wants = False, 2.0
    fleet.run(30_000)
    assert [worker.share.rate for worker in fleet.workers] == pytest.approx([1 / 3] * 3)


def test_attempts_in_flight_keep_their_limit_while_slots_are_lent_and_taken_back() -> None:
    """Jobs run for up to 20 s. First all lie at one worker; then others come to the second one."""
    fleet, random, runs = Fleet(SLOTS, 2, Random(1), (20, 150)), Random(2), list[tuple[int, int, tuple[int, bytes]]]()
    numbers, most, at_second = iter(range(10**6)), 0, 0

    def come(worker: int, count: int) -> None:
        priority: Priority = "normal"
        for _ in range(count):
            place = (worker + 2 * random.randrange(PARTITIONS // 2), str(next(numbers)).encode())
            waiter = Waiter(*place, ASKED, T0 + 10**9, priority)
            fleet.workers[worker].admission.put(waiter, fleet.now_ms)

    come(0, 2_000)
    for second in range(120):
        if second == 60:
            come(1, 2_000)
        for _ in range(1_000 // TICK_MS):
            fleet.tick()
            for run in [run for run in runs if run[0] <= fleet.now_ms]:
                runs.remove(run)
                _, number, place = run
                fleet.workers[number].admission.ended(place, (100, 100), fleet.now_ms)
            for number, worker in enumerate(fleet.workers):
                while isinstance(turn := worker.admission.next("m", fleet.now_ms), Grant):
                    place = (turn.waiter.partition, turn.waiter.key)
                    worker.admission.accepted(place, fleet.now_ms)
                    runs.append((fleet.now_ms + random.randint(2_000, 20_000), number, place))
            most = max(most, len(runs))
        if second == 59:
            assert len(runs) >= 22, "the second worker's slots are used, but one"
        at_second = sum(number == 1 for _, number, _ in runs)
    assert at_second >= 11, "and taken back as attempts end"
    assert most <= 24 + 2, "one for each worker at most, and what began within a delay"
