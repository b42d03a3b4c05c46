"""Budgets: what was spent of them, and when they are told."""

from decimal import Decimal
from random import Random
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from backstop.readmodel.budgets import Budget, Spending, reserved
from backstop.readmodel.costs import Tally, day_of
from backstop.readmodel.ledger import ask_spent
from backstop.readmodel.metrics import ProjectionMetrics
from backstop.readmodel.settings import ProjectionSettings
from backstop.readmodel.spending import SpendCounts
from backstop.readmodel.sweep import Kept, Sweeper
from streams.policy.prices import Priced, Prices, Used, read_prices
from tests.unit.backstop.readmodel.conftest import Bench
from tests.unit.backstop.readmodel.logs import Log
from tests.unit.backstop.readmodel.projection import Projection
from tests.unit.backstop.readmodel.test_costs import DAY_MS, PRICES, TODAY, USED, job

M_TODAY = Priced(day_of(TODAY), "m")
NOW_MS = TODAY * DAY_MS + 1
"""2026-11-29: the month began 28 days ago. Each job costs $0.0022."""


def budget(usd: str, per: Any = "day", **more: Any) -> Budget:
    return Budget(tenant="default", per=per, usd=Decimal(usd), **more)


@pytest.fixture(name="prices")
def _prices() -> Prices:
    return read_prices(PRICES)


def test_a_budget_counts_its_tenant_and_its_period(run, prices: Prices) -> None:
    async def body(bench: Bench) -> None:
        one = await Projection(bench.another()).take_over()
        days = {"today": TODAY, "yesterday": TODAY - 1, "first": TODAY - 28, "before": TODAY - 29}
        jobs = [fact for name, day in days.items() for fact in job(name, day, used=USED)]
        jobs += job("acme:a", used=USED, tenant="acme") + job("empty") + job("odd", used=USED, model="unheard-of")
        await one.take(Log().put(*jobs))
        budgets = [budget("0.0044"), budget("0.01", "month"), budget("0.01", "month", warn_percent=60)]
        day, month, warned = await one.database.read(lambda conn: ask_spent(conn, budgets, prices, NOW_MS))
        assert day.sentence == (
            "$0.0022 of $0.0044 per day spent since 2026-11-29 (50 %); 2 attempts of unknown cost are not in it"
        )
        assert month.sentence.startswith("$0.0066 of $0.01 per month spent since 2026-11-01 (66 %)")
        assert [day.is_near, month.is_near, warned.is_near] == [False, False, True]
        registry = CollectorRegistry()
        kept = Kept(1_000, changes_keep_ms=1_000, unclaimed_keep_ms=1_000, dead_letters_max=10)
        sweeper = Sweeper(
            one.database, lambda: NOW_MS, ProjectionMetrics(registry), interval_ms=1_000, bound_ms=1_000, kept=kept,
            spending=Spending(budgets[:2], prices),
        )  # fmt: skip
        await sweeper.once()
        for per, used in (("day", 0.5), ("month", 0.66)):
            labels = {"tenant": "default", "per": per}
            assert registry.get_sample_value("backstop_budget_used_ratio", labels) == used

    run(body)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[{"tenant": "a", "per": "day", "usd": 0}]', "greater than 0"),
        ('[{"tenant": "a", "per": "day", "usd": -5}]', "greater than 0"),
        ('[{"tenant": "a", "per": "week", "usd": 5}]', "'day' or 'month'"),
        ('[{"tenant": "Not A Tenant", "per": "day", "usd": 5}]', "pattern"),
        ('[{"tenant": "a", "per": "day", "usd": 5, "warn": 1}]', "not permitted"),
        ('[{"tenant": "a", "per": "day", "usd": 5, "warn_percent": 0}]', "greater than or equal to 1"),
        (
            '[{"tenant": "a", "per": "day", "usd": 5}, {"tenant": "a", "per": "day", "usd": 6}]',
            "two budgets of a per day",
        ),
    ],
)
def test_budgets_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch, text: str, says: str) -> None:
    monkeypatch.setenv("BACKSTOP_BUDGETS", text)
    with pytest.raises(ValidationError) as caught:
        ProjectionSettings()
    assert says in str(caught.value)


@pytest.mark.parametrize("seed", range(1, 6))
def test_what_a_budget_reserves_fits_what_its_jobs_cost_within_a_tenth(seed: int, prices: Prices) -> None:
    """1,000 jobs with lognormal outputs, each reserved when it begins, eight at a time, after 300 are known."""
    random = Random(seed)
    known, running, reserves, costs = Tally(), list[int](), 0, 0
    for number in range(1_300):
        output = round(random.lognormvariate(6.2, 1.0))
        if number >= 300:
            reserves += reserved({"m": 1}, {"m": known}, prices, TODAY)
            costs += prices.cost(M_TODAY, Used(input_tokens=500, output_tokens=output)) or 0
        running.append(output)
        if len(running) > 8:
            known.add(
                M_TODAY, SpendCounts(input_tokens=500, output_tokens=running.pop(0), attempts=1, measured=1), prices
            )
    assert abs(reserves / costs - 1) <= 0.10, f"{reserves / costs - 1:+.1%}"
