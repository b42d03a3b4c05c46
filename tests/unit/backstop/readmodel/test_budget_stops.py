"""Budgets that stop: what they hold and when they let go, from the ledger to the facts on `pauses`."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from backstop.readmodel.budget_stops import RESUME_SHARE, BudgetStops, changes
from backstop.readmodel.budgets import Budget, BudgetSpent, Spending
from backstop.readmodel.ledger import ask_spent
from backstop.readmodel.metrics import ProjectionMetrics
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.settings import RuntimeSettings
from schemas.base import Message
from schemas.codec import encode
from schemas.pauses import CreatesPaused, CreatesResumed, PauseFact, PauseScope
from streams.policy.prices import ATTO, Prices, read_prices
from tests.support.waiting import eventually
from tests.unit.backstop.readmodel.conftest import Bench
from tests.unit.backstop.readmodel.logs import Log
from tests.unit.backstop.readmodel.projection import Projection
from tests.unit.backstop.readmodel.test_costs import DAY_MS, PRICES, TODAY, USED, job
from tests.unit.streams.workers.test_pauses import Consumer

NOW_MS = TODAY * DAY_MS + 1
COST = 22 * ATTO // 10_000
"""Of each job: $0.0022."""
DAY = PauseScope(tenant="default", budget="day")
PAUSED = CreatesPaused(id="x", at_ms=1, scope=DAY, by="the budget per day", why="used up")


def budget(usd: str, per: Any = "day", *, stop: bool = True) -> Budget:
    return Budget(tenant="default", per=per, usd=Decimal(usd), stop=stop)


def stand(usd: str, *, reserved: int = 0, stop: bool = True) -> BudgetSpent:
    """A budget of which $0.0022 are spent."""
    return BudgetSpent(budget(usd, stop=stop), TODAY, COST, 0, reserved)


@pytest.fixture(name="prices")
def _prices() -> Prices:
    return read_prices(PRICES)


@pytest.mark.parametrize(
    ("active", "stands", "types"),
    [
        ([], [stand("0.01")], []),
        ([], [stand("0.0022")], [CreatesPaused]),
        ([], [stand("0.0022", stop=False)], []),
        ([], [stand("0.0044", reserved=COST)], [CreatesPaused]),
        ([], [stand("0.0044", reserved=COST - 1)], []),
        ([PAUSED], [stand("0.0022")], []),
        ([PAUSED], [stand("0.0044", reserved=COST - 1)], []),  # Just below: estimates change all the time.
        ([PAUSED], [stand("0.0044")], [CreatesResumed]),  # The budget was raised, or the reserve was too high.
        ([PAUSED], [replace(stand("0.0022"), atto=0)], [CreatesResumed]),  # A new day.
        ([PAUSED], [], [CreatesResumed]),  # The budget stops no more.
        ([PAUSED.model_copy(update={"scope": PauseScope(tenant="default")})], [], []),
        ([PAUSED.model_copy(update={"scope": PauseScope(tenant="default")})], [stand("0.0022")], [CreatesPaused]),
    ],
)  # fmt: skip
def test_a_stop_is_in_force_while_its_budget_is_used_up(
    active: list[CreatesPaused], stands: list[BudgetSpent], types: list[type[PauseFact]]
) -> None:
    facts = changes(active, stands, NOW_MS)
    assert [type(fact) for fact in facts] == types
    assert all(fact.scope == DAY for fact in facts)
    assert 0.9 < RESUME_SHARE < 1


def test_the_pauses_of_operators_keep_their_ids_and_a_budgets_pause_is_another_one() -> None:
    """An id that changes would leave the pauses in force without an end."""
    operators = PauseScope(tenant="default")
    assert operators.pause_id == "pause_fa8004cf28885709"
    assert len({operators.pause_id, DAY.pause_id, PauseScope(tenant="default", budget="month").pause_id}) == 3


def test_running_jobs_reserve_the_mean_of_their_model_and_what_has_no_price_is_named_and_not_counted(
    run, prices: Prices
) -> None:
    async def body(bench: Bench) -> None:
        one = await Projection(bench.another()).take_over()
        facts = [*job("done", used=USED), *job("runs")[:2], *job("begins")[:1], *job("odd", model="unheard-of")[:2]]
        facts += job("other", tenant="acme")[:2]
        await one.take(Log().put(*facts))
        soft, hard = await one.database.read(
            lambda conn: ask_spent(conn, [budget("1", "month", stop=False), budget("0.01")], prices, NOW_MS)
        )
        assert soft.reserved == 0
        assert (hard.atto, hard.reserved) == (COST, 2 * COST)
        assert hard.view == {
            "per": "day", "since": hard.view["since"], "limit_usd": "0.01", "spent_usd": "0.0022",
            "reserved_usd": "0.0044", "unknown": 2, "warn_percent": 80, "near": False, "stops": True,
            "used_up": False,
        }  # fmt: skip
        assert "$0.0044 reserved for running jobs; 2 attempts of unknown cost are not in it" in hard.sentence

    run(body)


def test_a_model_without_known_attempts_reserves_by_its_price(run, prices: Prices) -> None:
    async def body(bench: Bench) -> None:
        one = await Projection(bench.another()).take_over()
        await one.take(Log().put(*job("runs")[:2]))
        (hard,) = await one.database.read(lambda conn: ask_spent(conn, [budget("0.01")], prices, NOW_MS))
        assert hard.reserved == 18 * ATTO // 1_000, "1,000 tokens in, 2,000 out: 1,000 x $2 and 2,000 x $8 a million"
        assert hard.is_used_up

    run(body)


class Published:
    """A publisher that remembers its facts."""

    def __init__(self) -> None:
        self.facts: list[Message] = []
        self.away = False

    async def publish(self, messages: Sequence[Message], timeout_s: float | None = None) -> None:
        assert timeout_s is None
        if self.away:
            raise BrokerUnavailableError("away")
        self.facts.extend(messages)


@pytest.mark.parametrize(("budgets", "ends"), [((budget("0.0022"),), False), ((), True)])
def test_the_projection_holds_and_lets_go_by_its_ledger(
    run, prices: Prices, tmp_path: Path, budgets: tuple[Budget, ...], *, ends: bool
) -> None:
    """With a budget it pauses. Without one it only ends what earlier settings left paused."""
    log, now = Published(), [NOW_MS]

    async def body(bench: Bench) -> None:
        one = await Projection(bench.another()).take_over()
        await one.take(Log().put(*job("done", used=USED)))
        registry, there = CollectorRegistry(), asyncio.Event()
        there.set()
        before = () if budgets else (encode(PAUSED),)
        reads = type("Reads", (Consumer,), {"there": there, "values": before})
        log.away = True
        stops = BudgetStops(
            RuntimeSettings(data_dir=tmp_path), one.database, log, Spending(budgets, prices), lambda: now[0],
            ProjectionMetrics(registry), consumer=reads, every_s=0.01,
        )  # fmt: skip
        stop = asyncio.Event()
        running = asyncio.create_task(stops.run(stop))
        await asyncio.sleep(0)
        log.away = False
        await eventually(lambda: len(log.facts) == 1)
        assert isinstance(log.facts[0], CreatesResumed if ends else CreatesPaused)
        if ends:
            await running
            return
        labels = {"tenant": "default", "per": "day"}
        await eventually(lambda: registry.get_sample_value("backstop_budget_stopped", labels) == 1)
        now[0] += DAY_MS
        await eventually(lambda: len(log.facts) == 2)
        assert isinstance(log.facts[1], CreatesResumed)
        await eventually(lambda: registry.get_sample_value("backstop_budget_stopped", labels) == 0)
        stop.set()
        await running

    run(body)
