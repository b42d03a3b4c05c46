"""Costs over HTTP: sums of the ledger by tenant, model, tag, day and outcome, priced when they are read."""

from datetime import date
from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from backstop.readmodel.budgets import BudgetView, Spending
from backstop.readmodel.costs import BYS, By, CostQuestion, CostsView, day_of, number_of
from backstop.readmodel.database import Connection, Database
from backstop.readmodel.ledger import ask_costs, ask_spent
from backstop.readmodel.spending import DAY_MS
from backstop.runtime.http.routes import Answer, BadParameterError, Query, Route, declare, query_of
from backstop.runtime.process.clock import NowMs
from receiver.reads import problems
from receiver.reads.declarations import AWAY
from receiver.reads.overview import TenantOf
from receiver.reads.parameters import guarded

DAYS: Final = 30
"""Days of an answer where the caller names no first day."""
DAYS_MAX: Final = 3_660


def _split(value: Any) -> Any:
    return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


def _each_once(value: tuple[By, ...]) -> tuple[By, ...]:
    if {"tag", "cache_key"}.issubset(value):
        raise ValueError("must not have both tag and cache_key: no sums are kept by both")
    return tuple(dict.fromkeys(value))


def _day(value: Any) -> Any:
    """A date and nothing else: pydantic would read a number as a time, too."""
    if isinstance(value, str):
        try:
            return date.fromisoformat(value) if len(value) == len("2026-01-31") else value[:0]
        except ValueError:
            raise ValueError("must be a day like 2026-01-31") from None
    return value


Day = Annotated[date, Field(ge=date(1970, 1, 1), le=date(2200, 1, 1)), BeforeValidator(_day)]
Groups = Annotated[
    tuple[By, ...], AfterValidator(_each_once), BeforeValidator(_split),
    WithJsonSchema(
        {
            "type": "array", "items": {"type": "string", "enum": list(BYS)},
            "not": {"allOf": [{"contains": {"enum": ["tag"]}}, {"contains": {"enum": ["cache_key"]}}]},
        }
    ),
]  # fmt: skip


class CostsQuery(Query):
    by: Groups = Field(
        default=("model",),
        description="How to group: `tenant`, `model` (that ran), `asked_model` (of the submission), `tag`, `day`, "
        "`outcome` (of the attempt), `service_tier`, `window`, `cache_policy`, `cache_key`, separated by commas; not "
        "both `tag` and `cache_key`.",
    )
    since: Day | None = Field(
        default=None, description="The first day (UTC), for example 2026-01-31; 29 days before `until` if unset."
    )
    until: Day | None = Field(default=None, description="The last day (UTC), included; today if unset.")


class TenantCosts(CostsView):
    """Costs of whole days (UTC), dearest first, and the tenant's budgets."""

    budgets: list[BudgetView]
    """As they stand now, whatever days are asked for."""


GET_COSTS: Final = Route(
    "GET", "/v1/costs", name="getCosts", access="read", query=CostsQuery, problems=AWAY,
    says="What the tenant's attempts used and cost, in groups, dearest first.\n\nEvery attempt that the provider took "
    "or may have taken counts, under the day on which it did: also failed, retried, cancelled and late ones, and those "
    "of unknown outcome. Attempts without known usage (`unmeasured`) or without a price (`unpriced`) are counted, and "
    "add nothing to `cost_usd`. By `tag`, a job counts once for each of its tags.",
    answers=(Answer(200, "The costs.", TenantCosts),),
)  # fmt: skip


def add_cost_routes(
    app: web.Application, database: Database, tenant_of: TenantOf, now_ms: NowMs, spending: Spending
) -> None:
    """Add `GET /v1/costs` to `app`."""

    async def get_costs(request: web.Request) -> web.StreamResponse:
        tenant, at_ms, prices = tenant_of(request), now_ms(), spending.prices
        asked = question(query_of(request, CostsQuery), tenant, at_ms)
        mine = [budget for budget in spending.budgets if budget.tenant == tenant]

        def ask(conn: Connection) -> TenantCosts:  # In the database's thread: it would block the event loop.
            budgets = [each.view for each in ask_spent(conn, mine, prices, at_ms)]
            return {**ask_costs(conn, asked, prices), "budgets": budgets}

        return problems.answer(await database.read(ask))

    declare(app, GET_COSTS, guarded(get_costs))


def question(query: CostsQuery, tenant: str | None, now_ms: int) -> CostQuestion:
    """:raises BadParameterError: the first day is after the last one, or the period is too long."""
    last = number_of(query.until or day_of(now_ms // DAY_MS))
    first = max(0, last - DAYS + 1) if query.since is None else number_of(query.since)
    if first > last:
        raise BadParameterError("since", f"must not be after the last day, {day_of(last)}")
    if last - first >= DAYS_MAX:
        raise BadParameterError("since", f"must be at most {DAYS_MAX} days before the last day, {day_of(last)}")
    return CostQuestion(tenant, query.by, first, last)
