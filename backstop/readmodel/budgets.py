"""Budgets of tenants: what a tenant spent in a day or a month (UTC), against a limit. Pure.

A budget is a soft alarm, and where it says `stop` also a hard stop (`budget_stops.py`). Spent is what is known, so a
budget may be used up earlier than it says: attempts of unknown cost are counted beside it. Reserved is what the running
jobs are expected to cost, by the mean of the tenant's known attempts of the same model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Final, Literal, NotRequired, assert_never

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from backstop.readmodel.costs import CostQuestion, Dollars, Tally, day_of, number_of
from schemas.base import TenantId
from streams.policy.prices import ATTO, Priced, Prices, Used, dollars

BUDGETS_MAX: Final = 1_000

STOPS_MAX: Final = 100
"""Budgets that stop: each holds creates by a pause, of which a worker compares a limited number with each job."""
MEAN_DAYS: Final = 30
"""Days of whose attempts the mean counts as the estimate."""
UNKNOWN_USE: Final = Used(input_tokens=1_000, output_tokens=2_000)
"""What a job is expected to use while no attempt of its tenant and model is known."""

NOTHING: Final = Tally()

Per = Literal["day", "month"]


class Budget(BaseModel):
    """A limit of what a tenant may spend in a period."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: TenantId
    per: Per
    usd: Annotated[Decimal, Field(gt=0, le=10**9, decimal_places=6, allow_inf_nan=False)]
    warn_percent: int = Field(default=80, ge=1, le=100)
    """From this share on, `/v1/attention` tells of the budget."""
    stop: bool = False
    """Hold the tenant's creates once spent and reserved reach the budget."""

    @property
    def atto(self) -> int:
        return int(self.usd * ATTO)


@dataclass(frozen=True, slots=True)
class Spending:
    """The budgets to watch, and the prices by which what was spent is counted."""

    budgets: Sequence[Budget]
    prices: Prices


@dataclass(frozen=True, slots=True)
class BudgetSpent:
    """What was spent of a budget so far."""

    budget: Budget
    first_day: int
    atto: int
    unknown: int
    """Attempts in the period whose cost is not known."""
    reserved: int = 0
    """What the running jobs are expected to cost, in attodollars."""

    @property
    def share(self) -> float:
        """1 is all of it."""
        return self.atto / self.budget.atto

    @property
    def used_share(self) -> float:
        """As `share`, with what is reserved."""
        return (self.atto + self.reserved) / self.budget.atto

    @property
    def is_near(self) -> bool:
        return 100 * self.atto >= self.budget.warn_percent * self.budget.atto

    @property
    def is_used_up(self) -> bool:
        """Whether a budget that stops holds creates."""
        return self.budget.stop and self.atto + self.reserved >= self.budget.atto

    @property
    def view(self) -> "BudgetView":
        view: BudgetView = {
            "per": self.budget.per, "since": day_of(self.first_day), "limit_usd": f"{self.budget.usd.normalize():f}",
            "spent_usd": dollars(self.atto), "reserved_usd": dollars(self.reserved), "unknown": self.unknown,
            "warn_percent": self.budget.warn_percent, "near": self.is_near, "stops": self.budget.stop,
        }  # fmt: skip
        return {**view, "used_up": self.is_used_up} if self.budget.stop else view

    @property
    def sentence(self) -> str:
        """`$41.2 of $50 spent since 2026-11-01 (82 %); 3 attempts of unknown cost are not in it`."""
        unknown = f"; {self.unknown} attempts of unknown cost are not in it" if self.unknown else ""
        limit = f"{self.budget.usd.normalize():f}"
        reserved = f", ${dollars(self.reserved)} reserved for running jobs" if self.reserved else ""
        return (
            f"${dollars(self.atto)} of ${limit} per {self.budget.per} spent since {day_of(self.first_day)} "
            f"({100 * self.share:.0f} %){reserved}{unknown}"
        )


@with_config(ConfigDict(use_attribute_docstrings=True))
class BudgetView(TypedDict):
    """A budget of the tenant in its current period (UTC)."""

    per: Per
    since: date
    """The first day of the period."""
    limit_usd: Dollars
    spent_usd: Dollars
    """The known cost of the period."""
    reserved_usd: Dollars
    """What the running jobs are expected to cost."""
    unknown: int
    """Attempts of the period whose cost is not known: they are not in `spent_usd`."""
    warn_percent: int
    near: bool
    """The alarm: `spent_usd` has reached this share of the limit."""
    stops: bool
    """Whether creates are held once it is used up."""
    used_up: NotRequired[bool]
    """Whether spent and reserved have reached it. Left out where it does not stop."""


def question_of(budget: Budget, today: int) -> CostQuestion:
    """The costs that count for the budget today. Days are numbers since 1970-01-01."""
    match budget.per:
        case "day":
            first = today
        case "month":
            first = number_of(day_of(today).replace(day=1))
        case _:
            assert_never(budget.per)
    return CostQuestion(budget.tenant, (), first, today)


def spent(budget: Budget, first_day: int, tally: Tally, reserved: int = 0) -> BudgetSpent:
    counts = tally.counts
    unknown = counts.attempts - counts.measured + tally.unpriced
    return BudgetSpent(budget, first_day, tally.atto, unknown, reserved)


def reserved(running: Mapping[str, int], known: Mapping[str, Tally], prices: Prices, today: int) -> int:
    """What the running jobs (by model) are expected to cost, in attodollars. A model without a price adds nothing.

    :param known: what the tenant's attempts of each model used and cost lately.
    """
    total = 0
    for model, count in running.items():
        tally = known.get(model, NOTHING)
        if tally.priced:
            total += count * tally.atto // tally.priced
        else:
            total += count * (prices.cost(Priced(day_of(today), model), UNKNOWN_USE) or 0)
    return total


def repeated(budgets: Iterable[Budget]) -> str | None:
    """The first tenant and period that have two budgets; None if each has one."""
    seen: set[tuple[str, str]] = set()
    for budget in budgets:
        if (budget.tenant, budget.per) in seen:
            return f"{budget.tenant} per {budget.per}"
        seen.add((budget.tenant, budget.per))
    return None
