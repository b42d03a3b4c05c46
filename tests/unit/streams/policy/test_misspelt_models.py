"""Names of models and tenants come from submissions: a flood of them leaves nothing behind, and moves nothing out."""

from collections.abc import Iterator
from random import Random

import pytest

from schemas.lanes import DayUsed, LimitsLearned
from streams.policy import admission, shared_limits
from streams.policy.admission import Admission, Grant
from streams.policy.limiter import Limiter
from streams.policy.limits import read_rules
from streams.policy.rates import LimitsTold
from streams.policy.shared_limits import SharedLimits
from streams.policy.sizes import Asked
from streams.policy.waiting import Waiter
from tests.properties.lending import ACCOUNT, PARTITIONS, T0, Fleet, Worker

DAYS = read_rules('[{"tokens_per_day": 1000000}, {"tenant": "t*", "tokens_per_day": 100000}]')
FAR_MS = T0 + 10**9
LANES_MAX = 40


@pytest.fixture(autouse=True)
def few_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a flood is small."""
    monkeypatch.setattr(admission, "LANES_MAX", LANES_MAX)
    monkeypatch.setattr(shared_limits, "LANES_MAX", LANES_MAX)


def asked(model: str, tenant: str = "t") -> Asked:
    return Asked(tenant, model, 4_000, 1_000)


def misspell(worker: Worker, model: str, now_ms: int, tenant: str = "t") -> None:
    """A job of the model begins, and its create is refused."""
    place = (min(worker.owned), f"{model}/{tenant}".encode())
    worker.admission.put(Waiter(*place, asked(model, tenant), FAR_MS), now_ms)
    assert isinstance(worker.admission.next(model, now_ms), Grant)
    worker.admission.refused(place, now_ms)


def test_days_of_models_that_used_nothing_are_forgotten_and_those_that_did_are_kept() -> None:
    fleet = Fleet(DAYS, 2, Random(1), (20, 150))
    fleet.run(1_000)
    for number in range(3 * LANES_MAX):
        misspell(fleet.workers[0], f"misspelt-{number}", fleet.now_ms)
    fleet.run(30_000)
    for worker in fleet.workers:
        assert len(worker.limits._days) <= 2 * LANES_MAX, "those of lanes that admission still knows, and their tenants"
    place = (0, b"paid")
    fleet.workers[0].admission.began(place, asked("paid"), "normal", fleet.now_ms, accepted_at_ms=T0)
    fleet.workers[0].admission.ended(place, (70_000, 20_000), fleet.now_ms)
    fleet.run(30_000)
    for number in range(2 * LANES_MAX):
        misspell(fleet.workers[0], f"again-{number}", fleet.now_ms)
    fleet.run(30_000)
    assert "paid" not in fleet.workers[0].admission.lanes()
    for worker in fleet.workers:
        assert {key: day.left for key, day in worker.limits._days.items() if key[0] == "paid"} == {
            ("paid", None): 910_000, ("paid", "t"): 10_000,
        }  # fmt: skip


def test_days_that_others_tell_are_bounded_and_the_least_used_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_limits, "DAYS_MAX", 3)
    limits = SharedLimits(Admission(DAYS, ACCOUNT), DAYS, ACCOUNT, "w", PARTITIONS)
    for number, used in enumerate((500, 100, 300, 200, 400)):
        fact = DayUsed(
            id=f"x/{number}", at_ms=T0, account=ACCOUNT, model=f"m{number}", worker="x", day=T0 // 86_400_000,
            used={1: used}, reserved={},
        )  # fmt: skip
        limits.take(fact, T0)
    assert {model: round(1_000_000 - day.left) for (model, _), day in limits._days.items()} == {
        "m0": 500, "m2": 300, "m4": 400,
    }  # fmt: skip


def test_days_of_tenants_that_are_all_known_are_bounded_and_each_new_one_costs_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_limits, "DAYS_MAX", 200)
    known = Admission(DAYS, ACCOUNT)
    limits = SharedLimits(known, DAYS, ACCOUNT, "w", PARTITIONS)
    limits.own(range(PARTITIONS))
    reads: list[str] = []

    def limiters(model: str) -> Iterator[tuple[str | None, Limiter]]:
        reads.append(model)
        return Admission.limiters(known, model)

    monkeypatch.setattr(known, "limiters", limiters)
    for number in range(600):
        known.began((0, f"{number}".encode()), asked("m", f"t{number}"), "normal", T0, accepted_at_ms=T0)
    assert len(known.lanes()) == 1
    assert 190 < len(limits._days) <= 200
    assert ("m", None) in limits._days, "the most used one"
    assert len(reads) <= 201, "the known tenants are gathered once for two new ones"


def test_lessons_of_misspelt_models_do_not_keep_out_those_of_a_new_one() -> None:
    rules = read_rules('[{"discover": true}]')
    late = Admission(rules, ACCOUNT)
    limits = SharedLimits(late, rules, ACCOUNT, "w", PARTITIONS)
    for number in range(LANES_MAX + 1):
        model = "real" if number == LANES_MAX else f"misspelt-{number}"
        lesson = LimitsLearned(id=f"x/{number}", at_ms=T0, account=ACCOUNT, model=model, worker="x", tokens_per_min=777)
        limits.take(lesson, T0)
    assert len(limits._lessons) == LANES_MAX
    late.may_spend(asked("real"), T0)
    assert dict(late.limiters("real"))[None].tokens_per_min == 777


def test_a_flood_of_misspelt_models_does_not_reset_the_limits_of_a_lane_in_use() -> None:
    """Else its tenant could begin a new burst after each thousand of misspelt jobs."""
    fleet = Fleet(read_rules('[{"requests_per_min": 60}]'), 1, Random(1), (20, 150))
    worker, now_ms = fleet.workers[0], T0 + 10_000
    begun = 0
    for second in range(10):
        for number in range(5):
            key = (0, f"{second}/{number}".encode())
            worker.admission.put(Waiter(*key, asked("m"), FAR_MS), now_ms)
            if isinstance(turn := worker.admission.next("m", now_ms), Grant):
                worker.admission.accepted((0, turn.waiter.key), now_ms, LimitsTold())
                worker.admission.ended((0, turn.waiter.key), (1, 1), now_ms)
                begun += 1
            worker.admission.drop(key)
        for number in range(LANES_MAX):
            misspell(worker, f"misspelt-{second}-{number}", now_ms)
        now_ms += 1_000
    assert len(worker.admission.lanes()) == LANES_MAX
    assert begun <= 3 + 10, "three at once, and one a second"


def test_tenants_with_limits_of_their_own_are_bounded_and_the_idle_one_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "TENANTS_MAX", 3)
    fleet = Fleet(read_rules('[{"tenant": "t*", "requests_per_min": 1000}]'), 1, Random(1), (20, 150))
    worker = fleet.workers[0]
    worker.admission.began((0, b"runs"), asked("m", "t-runs"), "normal", T0)
    for number in range(5):
        misspell(worker, "m", T0 + 1 + number, f"t-{number}")
    assert [tenant for tenant, _ in worker.admission.limiters("m")] == [None, "t-runs", "t-3", "t-4"]
