"""Shares of a lane: a tenant within its share has room and turns as if the others were not there; none starves."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import Priority
from streams.policy.admission import Admission, Grant
from streams.policy.buckets import BURST_S
from streams.policy.limits import PRIORITIES, read_rules
from streams.policy.sizes import Asked
from streams.policy.standing import WINDOW_MS, Standings
from streams.policy.tiers import BURSTS_MAX
from streams.policy.waiting import Waiter

FAR_MS = 10**12
TOKENS = 2_000.0
"""What each job is expected to use."""
RULES = '[{"tokens_per_min": 600000}]'


def put(admission: Admission, number: int, tenant: str, priority: Priority, now_ms: int = 0) -> None:
    asked = Asked(tenant, "m", 4_000, 1_000)
    admission.put(Waiter(0, str(number).encode(), asked, FAR_MS, priority), now_ms)


def granted(admission: Admission, now_ms: int) -> Iterator[Grant]:
    while isinstance(turn := admission.next("m", now_ms), Grant):
        yield turn


@pytest.mark.parametrize("priority", ["interactive", "normal", "bulk"])
def test_a_small_tenant_waits_for_nothing_beside_a_flood(priority: Priority) -> None:
    """Three jobs at once, every five seconds: 12 % of the lane."""
    admission, came, waits_ms = Admission(read_rules(RULES), "a"), dict[bytes, int](), list[int]()
    for number in range(20_000):
        put(admission, number, "flood", "bulk")
    for now_ms in range(0, 120_000, 20):
        if now_ms % 5_000 == 0:
            for number in range(3):
                key = 100_000 + now_ms + number
                put(admission, key, "small", priority, now_ms)
                came[str(key).encode()] = now_ms
        for turn in granted(admission, now_ms):
            if turn.waiter.asked.tenant == "small":
                waits_ms.append(now_ms - came[turn.waiter.key])
    assert len(waits_ms) == 72
    assert max(waits_ms[3:]) == 0, "the first ones wait for the bucket to fill"


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_in_each_minute_all_ranks_together_take_the_limit_and_their_bursts_at_most(seed: int) -> None:
    random = Random(seed)
    admission, charges = Admission(read_rules('[{"tokens_per_min": 60000}]'), "a"), list[tuple[int, float]]()
    for number in range(300):
        put(admission, number, "flood", "bulk")
    for now_ms in range(0, 240_000, 100):
        if random.random() < 0.03:
            for number in range(random.randint(1, 4)):
                put(
                    admission, 1_000_000 + 10 * now_ms + number, random.choice("abc"), random.choice(PRIORITIES), now_ms
                )
        charges += [(now_ms, turn.tokens) for turn in granted(admission, now_ms)]
    for start_ms in range(0, 180_000, 5_000):
        in_minute = sum(charge for at_ms, charge in charges if start_ms <= at_ms < start_ms + 60_000)
        assert in_minute <= 60_000 * (1 + BURSTS_MAX * BURST_S / 60) + 3 * TOKENS
    assert sum(charge for _, charge in charges) >= 0.97 * 60_000 * 4, "it is work-conserving"


@pytest.mark.parametrize("rules", ['[{"concurrent": 10}]', '[{"concurrent": 10, "tokens_per_min": 1000000000}]'])
def test_no_class_starves_where_attempts_in_flight_are_the_limit(rules: str) -> None:
    """The rate of tokens is no limit, so each interactive job would be within its share of it."""
    admission, running, served = Admission(read_rules(rules), "a"), list[tuple[int, Grant]](), Counter[str]()
    for number in range(1_000):
        put(admission, number, "bulk", "bulk")
    number = 10_000
    for now_ms in range(0, 600_000, 100):
        for _ in range(2):
            number += 1
            put(admission, number, "live", "interactive", now_ms)
        for turn in granted(admission, now_ms):
            admission.accepted((0, turn.waiter.key), now_ms)
            running.append((now_ms + 2_000, turn))
            served[turn.waiter.priority] += now_ms > 120_000
        for end_ms, turn in list(running):
            if end_ms <= now_ms:
                running.remove((end_ms, turn))
                admission.ended((0, turn.waiter.key), (900, 900), now_ms, ran=True)
    assert served["bulk"] >= 0.05 * served.total(), served
    assert served["interactive"] >= 0.5 * served.total(), served


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_what_goes_as_within_a_share_is_its_share_and_one_window_at_most(seed: int) -> None:
    """Of members that are always active, whatever they use: a window's share at once, and their share of the time."""
    random, standings, now_ms = Random(seed), Standings(), 0
    members: list[tuple[Priority, str]] = [("normal", "a"), ("normal", "b"), ("bulk", "c")]
    shares = {members[0]: 25 / 30 / 3, members[1]: 25 / 30 / 3, members[2]: 5 / 30 / 2}
    used: dict[tuple[Priority, str], float] = defaultdict(float)
    for member in members:
        standings.of(member, 1.0, 0.0, 0)
    for _ in range(2_000):
        now_ms += random.randint(0, 400)
        for member in members:
            standing = standings.of(member, 1.0, 0.0, now_ms)
            cost_ms = random.uniform(1, 500)
            if random.random() < 0.7:
                used[member] += cost_ms if standing != "beyond" else 0.0
                standings.used(member, 1.0, cost_ms if standing != "beyond" else 0.0, now_ms)
            assert used[member] <= shares[member] * (now_ms + WINDOW_MS) * 1.2 + 500, member


@given(st.lists(st.tuples(st.integers(0, 90_000), st.sampled_from("abcde"), st.floats(0.1, 9)), max_size=80))
def test_members_that_are_idle_leave_their_share_to_the_others(steps: list[tuple[int, str, float]]) -> None:
    standings, now_ms, weights = Standings(), 0, dict[str, float]()
    for pause_ms, tenant, weight in steps:
        now_ms += pause_ms
        standings.used(("normal", tenant), weights.setdefault(tenant, weight), 10.0, now_ms)
    now_ms += WINDOW_MS + 1
    standings.used(("bulk", "last"), 1.0, 0.0, now_ms)
    assert standings.of(("bulk", "last"), 1.0, WINDOW_MS / 2, now_ms) == "within", "half, and half for a newcomer"
    assert standings.of(("bulk", "last"), 1.0, WINDOW_MS / 2 + 1, now_ms) == "beyond"


@pytest.mark.parametrize(
    ("rules", "waits", "why"),
    [
        ("", 0, None),
        (RULES, 0, None),
        (RULES, 1, "turn"),
        ('[{"tokens_per_min": 6000}]', 0, "tokens_per_min"),
        ('[{"tenant": "t", "concurrent": 1}]', 0, "tenant_concurrent"),
    ],
)
def test_what_waits_for_no_turn_may_begin_only_where_there_is_room_and_nothing_waits(
    rules: str, waits: int, why: str | None
) -> None:
    admission, asked = Admission(read_rules(rules), "a"), Asked("t", "m", 4_000, 1_000)
    admission.may_spend(asked, 0)
    admission.began((0, b"runs"), asked, "normal", 3_000)
    for number in range(waits):
        put(admission, number, "t", "normal", 3_000)
    assert admission.may_spend(asked, 6_000) == why
    assert len(admission) == waits
