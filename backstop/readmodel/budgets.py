"""Budgets of tenants: what a tenant spent in a day or a month (UTC), against a limit. Pure.

A budget is a soft alarm: nothing stops. Spent is what is known, so a budget may be used up earlier than it says:
attempts of unknown cost are counted beside it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Final, Literal, assert_never

from pydantic import BaseModel, ConfigDict, Field

from backstop.readmodel.costs import CostQuestion, Tally, day_of, number_of
from backstop.readmodel.prices import ATTO, Prices, dollars
from schemas.base import TenantId

BUDGETS_MAX: Final = 1_000

Per = Literal["day", "month"]


class Budget(BaseModel):
    """A limit of what a tenant may spend in a period."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: TenantId
    per: Per
    usd: Annotated[Decimal, Field(gt=0, le=10**9, decimal_places=6, allow_inf_nan=False)]
    warn_percent: int = Field(default=80, ge=1, le=100)
    """From this share on, `/v1/attention` tells of the budget."""


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

    @property
    def share(self) -> float:
        """1 is all of it."""
        return self.atto / int(self.budget.usd * ATTO)

    @property
    def is_near(self) -> bool:
        return 100 * self.atto >= self.budget.warn_percent * int(self.budget.usd * ATTO)

    @property
    def sentence(self) -> str:
        """`$41.2 of $50 spent since 2026-11-01 (82 %); 3 attempts of unknown cost are not in it`."""
        unknown = f"; {self.unknown} attempts of unknown cost are not in it" if self.unknown else ""
        limit = f"{self.budget.usd.normalize():f}"
        return (
            f"${dollars(self.atto)} of ${limit} per {self.budget.per} spent since {day_of(self.first_day)} "
            f"({100 * self.share:.0f} %){unknown}"
        )


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


def spent(budget: Budget, first_day: int, tally: Tally) -> BudgetSpent:
    counts = tally.counts
    return BudgetSpent(budget, first_day, tally.atto, counts.attempts - counts.measured + tally.unpriced)


def repeated(budgets: Iterable[Budget]) -> str | None:
    """The first tenant and period that have two budgets; None if each has one."""
    seen: set[tuple[str, str]] = set()
    for budget in budgets:
        if (budget.tenant, budget.per) in seen:
            return f"{budget.tenant} per {budget.per}"
        seen.add((budget.tenant, budget.per))
    return None
