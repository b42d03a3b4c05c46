"""Which worker gets what of a limit, by what all of them told."""

import pytest

from schemas.lanes import ShareWanted, WantedPart
from streams.policy.lending import (
    FRESH_MS,
    LENT_FOR_MS,
    TOLD_FOR_MS,
    Demand,
    LaneShares,
    LentShare,
    Part,
    base_share,
    divide,
)

FOUR = 4
"""Partitions of all workers."""


def wants(
    worker: str, partitions: tuple[int, ...], rate: int, *, at_ms: int = 0, slots: int = 0, held: int = 0,
    tenants: dict[str, WantedPart] | None = None,
) -> ShareWanted:  # fmt: skip
    return ShareWanted(
        id=f"{worker}/{at_ms}", at_ms=at_ms, account="0" * 8, model="m", worker=worker, partitions=partitions,
        wanted=WantedPart(rate=rate, slots=slots, held=held), tenants=tenants or {}, needs=rate == 1_000,
    )  # fmt: skip


def shares(*facts: ShareWanted, worker: str = "a", read_ms: int = 0) -> LaneShares:
    lane = LaneShares(worker, FOUR)
    for fact in facts:
        lane.take(fact, read_ms)
    return lane


def test_each_gets_what_it_wants_and_the_rest_goes_to_those_that_want_more() -> None:
    assert divide([Part(0.5, 1.0), Part(0.5, 0.1)], 1.0) == pytest.approx([0.9, 0.1])
    assert divide([Part(0.5, 1.0), Part(0.25, 1.0), Part(0.25, 0.05)], 1.0) == pytest.approx(
        [0.95 * 2 / 3, 0.95 / 3, 0.05]
    )
    assert divide([Part(0.5, 0.2), Part(0.5, 0.1)], 1.0) == pytest.approx([0.55, 0.45]), "the rest, by partitions"
    assert divide([Part(0.5, 1.0), Part(0.5, 1.0)], 1.0) == pytest.approx([0.5, 0.5])


def test_none_gets_fewer_attempts_than_it_has_in_flight() -> None:
    assert divide([Part(6, 12), Part(6, 12, holds=9)], 12) == pytest.approx([3, 9])
    assert divide([Part(6, 12, holds=8), Part(6, 12, holds=9)], 12) == pytest.approx([8, 9]), "both keep what runs"


def test_a_worker_that_needs_more_gets_what_another_one_leaves() -> None:
    lane = shares(wants("a", (0, 1), 1_000), wants("b", (2, 3), 10))
    assert lane.share((0, 1), None, None, 100).rate == pytest.approx(0.99)


def test_a_worker_that_tells_nothing_keeps_its_base() -> None:
    lane = shares(wants("a", (0,), 1_000), wants("b", (1,), 10))
    assert lane.share((0,), None, None, 100).rate == pytest.approx(0.49), "partitions 2 and 3 are not lent"


def test_without_a_fact_of_its_own_that_was_read_back_a_worker_has_its_base() -> None:
    assert shares(wants("b", (2, 3), 10)).share((0, 1), None, None, 0) == LentShare(0.5)
    lane = shares(wants("a", (0, 1), 1_000), wants("b", (2, 3), 10, at_ms=FRESH_MS), read_ms=FRESH_MS)
    assert lane.share((0, 1), None, None, FRESH_MS).rate == pytest.approx(0.99)
    assert lane.share((0, 1), None, None, FRESH_MS + 1) == LentShare(0.5)


def test_a_lender_that_is_cut_off_takes_its_base_once_its_facts_count_nowhere() -> None:
    lane = shares(wants("b", (2, 3), 10), wants("a", (0, 1), 1_000), worker="b")
    lane.take(wants("a", (0, 1), 1_000, at_ms=LENT_FOR_MS), LENT_FOR_MS)
    assert lane.share((2, 3), None, None, LENT_FOR_MS).rate == pytest.approx(0.01)
    assert lane.share((2, 3), None, None, LENT_FOR_MS + 1) == LentShare(0.5)
    assert LENT_FOR_MS > TOLD_FOR_MS


def test_what_a_dead_worker_told_expires_and_its_base_is_not_lent() -> None:
    lane = shares(wants("b", (2, 3), 10))
    lane.take(wants("a", (0, 1), 1_000, at_ms=TOLD_FOR_MS), TOLD_FOR_MS)
    assert lane.share((0, 1), None, None, TOLD_FOR_MS).rate == pytest.approx(0.99)
    assert lane.share((0, 1), None, None, TOLD_FOR_MS + 1).rate == pytest.approx(0.5)


def test_a_clock_ahead_makes_no_fact_live_for_longer() -> None:
    lane = shares(wants("b", (2, 3), 10, at_ms=3_600_000), wants("a", (0, 1), 1_000), read_ms=0)
    lane.take(wants("a", (0, 1), 1_000, at_ms=TOLD_FOR_MS + 1), TOLD_FOR_MS + 1)
    assert lane.share((0, 1), None, None, TOLD_FOR_MS + 1).rate == pytest.approx(0.5)


def test_after_a_rebalance_a_worker_has_its_base_until_it_has_told_its_new_partitions() -> None:
    lane = shares(wants("a", (0, 1), 1_000), wants("b", (2, 3), 10))
    assert lane.share((0, 1, 2), None, None, 100) == LentShare(0.75)
    lane.take(wants("a", (0, 1, 2), 1_000, at_ms=100), 100)
    assert lane.share((0, 1, 2), None, None, 100).rate == pytest.approx(0.625 + 0.375 - 0.01), "2 is named by both"


def test_two_workers_that_both_believe_that_they_own_the_share_have_half_of_it() -> None:
    facts = [wants(worker, (0, 1, 2, 3), 1_000) for worker in ("a", "b")]
    both = [shares(*facts, worker=worker).share((0, 1, 2, 3), None, None, 0).rate for worker in ("a", "b")]
    assert both == pytest.approx([0.5, 0.5])


def test_limits_of_a_tenant_are_divided_apart() -> None:
    lane = shares(
        wants("a", (0, 1), 300, tenants={"acme": WantedPart(rate=1_000)}),
        wants("b", (2, 3), 1_000, tenants={"acme": WantedPart(rate=100)}),
    )
    assert lane.share((0, 1), "acme", None, 0).rate == pytest.approx(0.9)
    assert lane.share((0, 1), None, None, 0).rate == pytest.approx(0.3)
    assert lane.tenants(0) == {"acme"}


def test_slots_are_whole_and_each_worker_may_have_one() -> None:
    assert base_share(0.25, 3) == LentShare(0.25, 1)
    lane = shares(wants("a", (0, 1), 1_000, slots=7, held=3), wants("b", (2, 3), 10, slots=1))
    assert lane.share((0, 1), None, 7, 0).slots == 6
    other = shares(wants("a", (0, 1), 1_000, slots=7, held=7), wants("b", (2, 3), 1_000, slots=7), worker="b")
    assert other.share((2, 3), None, 7, 0).slots == 1, "what the borrower has in flight is not taken from it"


def test_a_short_moment_is_told_from_a_shortage() -> None:
    demand = Demand()
    demand.short(1_000)
    assert demand.short_ms(1_500) == 500
    assert demand.short_ms(1_000 + Demand.SHORT_GAP_MS + 1) is None
    demand.short(10_000)
    assert demand.short_ms(10_000) == 0


def test_what_was_used_is_that_of_the_last_ten_seconds() -> None:
    demand = Demand()
    for now_ms in range(0, 60_000, 100):
        demand.took(0.5 / 600, now_ms)
    assert demand.used(60_000) == pytest.approx(0.5, rel=0.02)
    assert demand.used(90_000) < 0.03
