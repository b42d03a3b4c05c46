"""Admission, over random histories: never over a limit by more than its bound, none starves, nothing is lost, and what
was reserved comes back exactly once.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import Priority
from streams.policy.admission import Admission, Grant, NotYet, TooLate
from streams.policy.buckets import BURST_S, Bucket, Requests
from streams.policy.limiter import Limiter
from streams.policy.limits import NO_LIMITS, PRIORITIES, read_rules
from streams.policy.rates import Rates
from streams.policy.sizes import Asked
from streams.policy.turns import Turns
from streams.policy.waiting import Waiter

FAR_MS = 10**12
ASKED = Asked("t", "m", 4_000, 1_000)
TOKENS = 2_000.0
"""What `ASKED` is expected to use before anything is learned."""


def waiter(number: int, tenant: str = "t", priority: Priority = "normal", **changes: object) -> Waiter:
    asked = Asked(tenant, "m", 4_000, 1_000)
    return Waiter(0, str(number).encode(), asked, FAR_MS, priority, **changes)  # type: ignore[arg-type]


def granted(admission: Admission, now_ms: int, limit: int = 1_000_000) -> Iterator[Grant]:
    """All that may begin now."""
    for _ in range(limit):
        turn = admission.next("m", now_ms)
        if not isinstance(turn, Grant):
            assert not isinstance(turn, TooLate)
            return
        yield turn


@given(st.integers(1, 3_000), st.lists(st.tuples(st.integers(0, 4_000), st.integers(1, 300)), max_size=60))
def test_a_bucket_never_gives_more_than_its_rate_and_its_burst(per_min: int, asks: list[tuple[int, int]]) -> None:
    bucket, now_ms, taken, largest = Bucket(float(per_min), 0), 0, 0.0, 0
    for pause_ms, amount in asks:
        now_ms += pause_ms
        if not bucket.wait_ms(amount, now_ms):
            bucket.take(amount, now_ms)
            taken, largest = taken + amount, max(largest, amount)
        assert taken <= per_min * now_ms / 60_000 + largest + 1e-6


@given(st.integers(1, 600), st.lists(st.integers(0, 4_000), max_size=80))
def test_requests_come_at_their_rate_with_three_seconds_at_once(per_min: int, pauses_ms: list[int]) -> None:
    requests, now_ms, taken = Requests(float(per_min)), 0, 0
    for pause_ms in pauses_ms:
        now_ms += pause_ms
        if not requests.wait_ms(now_ms):
            requests.take(now_ms)
            taken += 1
        assert taken <= per_min * (now_ms / 60_000 + BURST_S / 60) + 1


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_in_each_minute_a_lane_is_charged_its_limit_and_its_burst_at_most(seed: int) -> None:
    random = Random(seed)
    admission, charges = Admission(read_rules('[{"tokens_per_min": 60000}]'), "a"), list[tuple[int, float]]()
    for number in range(400):
        admission.put(waiter(number, random.choice("abc"), random.choice(PRIORITIES)), 0)
    for now_ms in range(0, 240_000, 100):
        charges += [(now_ms, turn.tokens) for turn in granted(admission, now_ms)]
    for start_ms in range(0, 180_000, 10_000):
        in_minute = sum(charge for at_ms, charge in charges if start_ms <= at_ms < start_ms + 60_000)
        assert in_minute <= 60_000 * (1 + BURST_S / 60) + TOKENS
    assert sum(charge for _, charge in charges) >= 0.97 * 60_000 * 4, "it is work-conserving"


def test_a_limiter_begins_empty() -> None:
    admission = Admission(read_rules('[{"tokens_per_min": 60000}]'), "a")
    admission.put(waiter(1), 0)
    assert admission.next("m", 0) == NotYet("tokens_per_min", 2_001)


def served_of(weights: dict[str, float], sizes: dict[str, int], rounds: int) -> Counter[str]:
    turns: Turns[str] = Turns()
    for name, weight in weights.items():
        turns.join(name, weight)
    served: Counter[str] = Counter()
    for _ in range(rounds):
        name = turns.first() or ""
        served[name] += sizes[name]
        turns.served(name, sizes[name])
    return served


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 500), min_size=2))
def test_turns_share_the_amount_whatever_the_sizes(sizes: dict[str, int]) -> None:
    served = served_of(dict.fromkeys(sizes, 1.0), sizes, 2_000)
    assert max(served.values()) - min(served.values()) <= 2 * max(sizes.values())


def test_turns_share_by_weight() -> None:
    served = served_of({"a": 70, "b": 25, "c": 5}, {"a": 10, "b": 10, "c": 10}, 10_000)
    assert [round(100 * served[name] / served.total()) for name in "abc"] == [70, 25, 5]


def test_a_weight_counts_also_for_one_that_left_with_its_last_turn() -> None:
    turns: Turns[str] = Turns()
    turns.join("interactive", 70)
    turns.leave("interactive")
    turns.served("interactive", 10)
    assert turns._counters["interactive"] == 10 / 70


def test_one_that_returns_has_no_credit_and_one_that_left_keeps_its_debt() -> None:
    turns: Turns[str] = Turns()
    turns.join("old")
    turns.join("busy")
    turns.leave("old")
    for _ in range(100):
        turns.served("busy", 10)
    turns.join("old")
    in_a_row = 0
    while turns.first() == "old":
        turns.served("old", 10)
        in_a_row += 1
    assert in_a_row <= 2, "it would have a hundred turns in a row with its old counter"
    turns.served("old", 500)
    turns.leave("old")
    turns.join("old")
    assert turns.first() == "busy"


@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 50))
def test_of_equal_counters_the_greater_weight_goes_first(light: int, heavy: int, served: int) -> None:
    turns: Turns[str] = Turns()
    turns.join("light", light)
    turns.served("light", served)
    turns.join("heavy", light + heavy)
    assert turns.first() == "heavy"


WEIGHTS = {"interactive": 70.0, "normal": 25.0, "bulk": 5.0}


@given(st.sampled_from(sorted(WEIGHTS)), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_class_that_rarely_waits_is_passed_by_its_share_and_one_request_of_each(rare: str, seed: int) -> None:
    """The others always wait. What is in flight is corrected by real usage now and then, in both directions."""
    random, turns, most = Random(seed), Turns[str](), 100.0
    others = [name for name in WEIGHTS if name != rare]
    for name in others:
        turns.join(name, WEIGHTS[name])
    in_flight: list[tuple[str, float]] = []
    last = 0.0
    passed, allowed = defaultdict[str, float](float), defaultdict[str, float](float)
    waits = False
    for _ in range(3_000):
        if not waits and random.random() < 0.02:
            waits, passed = True, defaultdict(float)
            allowed = defaultdict(float, {name: last * WEIGHTS[name] / WEIGHTS[rare] + 2 * most for name in others})
            turns.join(rare, WEIGHTS[rare])
        name, amount = turns.first() or "", random.uniform(1, most)
        if name == rare:
            assert waits
            waits, last = False, amount
            turns.leave(rare)
            turns.served(rare, amount)
            continue
        turns.served(name, amount)
        in_flight.append((name, amount))
        passed[name] += amount
        if waits:
            assert passed[name] <= allowed[name] + 1e-6, (rare, name)
        if random.random() < 0.3:
            name, amount = in_flight.pop(random.randrange(len(in_flight)))
            used = amount * random.choice((0.01, 0.8, 1.5))
            turns.corrected(name, amount, used)
            allowed[name] += max(0.0, amount - used)


def test_turns_share_what_is_used_where_it_is_known_late() -> None:
    """Two hundred requests are in flight, and the estimate is right on average."""
    random, turns, in_flight = Random(1), Turns[str](), deque[str]()
    used = dict.fromkeys(WEIGHTS, 0.0)
    for name, weight in WEIGHTS.items():
        turns.join(name, weight)
    for _ in range(40_000):
        in_flight.append(first := turns.first() or "")
        turns.served(first, 100)
        if len(in_flight) > 200:
            in_flight.rotate(-random.randrange(200))
            name, amount = in_flight.popleft(), 100 * random.lognormvariate(-0.5, 1)
            used[name] += amount
            turns.corrected(name, 100, amount)
    for name, weight in WEIGHTS.items():
        assert used[name] / sum(used.values()) == pytest.approx(weight / 100, rel=0.05)


def test_no_class_starves_and_all_have_their_floor() -> None:
    admission, now_ms = Admission(read_rules('[{"tokens_per_min": 600000}]'), "a"), 0
    for number in range(3_000):
        admission.put(waiter(number, "t", PRIORITIES[number % 3]), 0)
    served: Counter[str] = Counter()
    for now_ms in range(0, 120_000, 20):
        served.update(turn.waiter.priority for turn in granted(admission, now_ms))
    assert {name: round(100 * count / served.total()) for name, count in served.items()} == {
        "interactive": 70, "normal": 25, "bulk": 5,
    }  # fmt: skip


def test_classes_keep_their_order_while_estimates_are_far_too_high() -> None:
    """The first bulk jobs begin before the others come. Their end shows that they used a hundredth of the estimate."""
    admission, order, running = Admission(read_rules('[{"requests_per_min": 60}]'), "a"), list[str](), deque[Grant]()
    counts: dict[Priority, int] = {"bulk": 24, "interactive": 8, "normal": 8}
    for priority, count in counts.items():
        for number in range(count):
            admission.put(waiter(100 * PRIORITIES.index(priority) + number, "t", priority), 0)
            if number == 3:
                running.extend(granted(admission, 0))
    order += [turn.waiter.priority for turn in running]
    for now_ms in range(500, 60_000, 1_000):
        while len(running) > 1:
            place = (0, running.popleft().waiter.key)
            admission.accepted(place, now_ms)
            admission.ended(place, (10, 10), now_ms)
        running.extend(turns := list(granted(admission, now_ms)))
        order += [turn.waiter.priority for turn in turns]
    assert order[:3] == ["bulk"] * 3
    last = {priority: len(order) - order[::-1].index(priority) for priority in counts}
    assert len(order) == 40
    assert last["interactive"] <= 22, order
    assert last["normal"] <= 26, order


def test_an_interactive_job_finds_room_beside_a_bulk_backlog() -> None:
    admission, waits_ms = Admission(read_rules('[{"tokens_per_min": 600000}]'), "a"), list[int]()
    for number in range(2_000):
        admission.put(waiter(number, "t", "bulk"), 0)
    came: dict[bytes, int] = {}
    for now_ms in range(0, 120_000, 20):
        if now_ms % 5_000 == 0:
            admission.put(waiter(10_000 + now_ms, "t", "interactive"), now_ms)
            came[str(10_000 + now_ms).encode()] = now_ms
        for turn in granted(admission, now_ms):
            if turn.waiter.priority == "interactive":
                waits_ms.append(now_ms - came[turn.waiter.key])
    assert len(waits_ms) == 24
    assert max(waits_ms[1:]) == 0


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_each_job_is_granted_once_and_each_reservation_comes_back_once(seed: int) -> None:
    random = Random(seed)
    rules = read_rules(
        '[{"concurrent": 7, "requests_per_min": 6000, "tokens_per_min": 900000}, {"tenant": "b", "concurrent": 2}]'
    )
    admission, running, begun = Admission(rules, "a"), list[Grant](), Counter[bytes]()
    total, now_ms = 80, 0
    for number in range(total):
        admission.put(waiter(number, random.choice("abc"), random.choice(PRIORITIES)), 0)
    while now_ms < 400_000 and (begun.total() < total or running):
        now_ms += 50
        for turn in granted(admission, now_ms):
            running.append(turn)
            begun[turn.waiter.key] += 1
        lane = admission._lanes["m"].limiter
        assert lane.in_flight == len(running) <= 7
        assert sum(turn.waiter.asked.tenant == "b" for turn in running) <= 2
        random.shuffle(running)
        for turn in running[: random.randint(0, 3)]:
            running.remove(turn)
            place = (0, turn.waiter.key)
            match random.randrange(3):
                case 0:
                    admission.refused(place, now_ms)
                    begun[turn.waiter.key] -= 1
                    admission.put(waiter(int(turn.waiter.key), turn.waiter.asked.tenant, retry=True), now_ms)
                case 1:
                    admission.accepted(place, now_ms)
                    admission.ended(place, (900, random.randint(0, 5_000)), now_ms)
                case _:
                    admission.ended(place, None, now_ms)
            for _ in range(2):  # Told again, nothing is given back again.
                admission.ended(place, None, now_ms)
    assert begun == Counter({str(number).encode(): 1 for number in range(total)})
    lane = admission._lanes["m"].limiter
    assert lane.in_flight == 0
    assert len(admission) == 0


def test_a_refusal_lowers_the_rate_and_its_wait_is_kept() -> None:
    limiter = Limiter(Rates(tokens_per_min=1_000_000), 0)
    for now_ms in range(0, 10_000, 100):
        limiter.take(1_000, now_ms)
        limiter.answered(1_000, now_ms)
    limiter.take(1_000, 10_000)
    limiter.refused(1_000, 10_000, limited=True, told_ms=7_000)
    assert limiter.tokens_per_min == 800_000
    wait = limiter.wait(1.0, 10_000)
    assert wait is not None
    assert wait.ms is not None
    assert wait.ms >= 7_000


def test_refusals_while_nothing_is_served_lower_no_rate() -> None:
    limiter = Limiter(Rates(tokens_per_min=60_000), 0)
    for now_ms in range(0, 3_600_000, 60_000):
        limiter.take(1_000, now_ms)
        limiter.refused(1_000, now_ms, limited=True, told_ms=0)
    assert limiter.tokens_per_min == 60_000


def test_a_day_is_divided_among_workers_and_begins_anew() -> None:
    limiter = Limiter(Rates(tokens_per_day=10_000), 0, share=0.5)
    limiter.take(4_000, 0)
    wait = limiter.wait(2_000, 3_600_000)
    assert wait is not None
    assert (wait.reason, wait.ms) == ("tokens_per_day", 23 * 3_600_000)
    assert limiter.wait(2_000, 86_400_000) is None


def test_estimates_learn_the_mean_by_tenant_and_size() -> None:
    admission, random = Admission(NO_LIMITS, "a"), Random(1)
    for number in range(400):
        place = (0, str(number).encode())
        admission.began(place, ASKED, "normal", 0)
        admission.ended(place, (800, int(300 * random.lognormvariate(0, 1))), 0)
    estimate = admission.sizes.estimate(ASKED)
    assert estimate.input_tokens == pytest.approx(800, rel=0.02)
    assert estimate.output_tokens == pytest.approx(300 * 1.6487, rel=0.25)


def test_partitions_that_left_take_their_jobs_and_reservations_along() -> None:
    admission = Admission(read_rules('[{"concurrent": 1}]'), "a")
    for partition in (0, 1):
        admission.put(Waiter(partition, b"j", ASKED, FAR_MS), 0)
    assert isinstance(admission.next("m", 0), Grant)
    assert isinstance(admission.next("m", 0), NotYet)
    admission.own([1], 0.5, 0)
    turn = admission.next("m", 0)
    assert isinstance(turn, Grant)
    assert turn.waiter.partition == 1
    assert len(admission) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"tokens_per_min": 0}]', "greater than 0"),
        ('[{"concurrent": 0}]', "greater than or equal to 1"),
        ('[{"model": "m"}]', "sets nothing"),
        ('[{"model": "m", "weight": 2}]', "name a tenant"),
        ('[{"tenant": "t", "weight": 0}]', "greater than or equal to 0.001"),
        ('[{"tenant": "t", "weight": NaN}]', "weight"),
        ('[{"tokens_per_min": NaN}]', "tokens_per_min"),
        ('[{"tokens_per_min": Infinity}]', "tokens_per_min"),
        ('[{"tokens_per_min": "1m"}]', "valid number"),
        ('[{"model": "gpt*mini", "concurrent": 1}]', "not its last character"),
        ('[{"tenant": " acme", "concurrent": 1}]', "blanks around it"),
        ('[{"tokens_per_day": 10, "tokens_per_min": 20}]', "contradicts itself"),
        ('[{"concurrent": 1}, {"concurrent": 2}]', "two rules set concurrent"),
        ('[{"tokens_per_minute": 1}]', "Extra inputs"),
        ("{}", "valid array"),
        ("[", "Invalid JSON"),
    ],
)
def test_limits_that_can_not_hold_are_refused_in_a_sentence(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"^limits: ") as refused:
        read_rules(text)
    assert words in str(refused.value)


def test_the_most_exact_rule_counts_field_by_field() -> None:
    rules = read_rules(
        '[{"tokens_per_min": 10, "concurrent": 3}, {"model": "gpt-*", "tokens_per_min": 20}, '
        '{"model": "gpt-6", "tokens_per_min": 30}, {"tenant": "a", "weight": 2, "concurrent": 1}]'
    )
    assert rules.lane("x", "gpt-6") == Rates(concurrent=3, tokens_per_min=30)
    assert rules.lane("x", "gpt-5") == Rates(concurrent=3, tokens_per_min=20)
    assert rules.tenant("x", "gpt-5", "a") == Rates(concurrent=1)
    assert rules.tenant("x", "gpt-5", "b") == Rates()
    assert (rules.weight("a"), rules.weight("b")) == (2.0, 1.0)
