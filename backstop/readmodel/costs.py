"""Costs as they are told: sums of the ledger, priced, in groups. Pure.

Rules:
- `cost_usd` is exact. It is the sum over the attempts of a group whose cost is known, and over the priced calls of
  tools of the others.
- An attempt whose usage is not known (`unmeasured`), or whose usage has no price (`unpriced`), is counted and adds
  nothing. Where no attempt of a group has a known cost, or where those that have one cost nothing, the cost is unknown:
  `cost_usd` is left out. It is 0 only where the cost of all attempts is known.
- A group by `model` is of the model that ran: the one that the response names, else the one that the attempt asked for.
- Groups by tag count a job once for each of its tags, so they may add up to more than the total.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Literal, NotRequired, cast, get_args

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from backstop.readmodel.spending import (
    COUNTS,
    DAY_MS,
    About,
    Group,
    Spend,
    SpendCounts,
    SpendOutcome,
    SpendOwner,
    Sums,
    counts_of,
    group_of,
)
from streams.policy.prices import ATTO, Priced, Prices, Used, dollars

_DOCUMENTED: Final = ConfigDict(use_attribute_docstrings=True)

By = Literal[
    "tenant", "model", "asked_model", "tag", "day", "outcome", "service_tier", "window", "cache_policy", "cache_key"
]
BYS: Final[tuple[By, ...]] = get_args(By)
GROUPS_MAX: Final = 1_000
"""Groups in one answer: the dearest ones."""
ASKED_MAX: Final = 20
SUMS_MAX: Final = 200_000
"""Rows of sums read for one answer."""

PRICED_BY: Final = ("day", "model", "served", "tier", "window", "long")
"""The columns that decide a price; every question reads at least these."""
_COLUMNS: Final[dict[By, str]] = {
    "tenant": "tenant", "model": "served", "asked_model": "model", "tag": "name", "day": "day", "outcome": "outcome",
    "service_tier": "tier", "window": "window", "cache_policy": "cache_policy", "cache_key": "name",
}  # fmt: skip

Dollars = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]{1,18})?$")]


@with_config(_DOCUMENTED)
class CostView(TypedDict):
    """What attempts used, and what that cost."""

    cost_usd: NotRequired[Dollars]
    """Dollars, exact, of the attempts whose cost is known. Left out if that is none of them, and instead of 0 if there
    are others.
    """
    attempts: int
    """Responses that the provider made, and attempts of unknown outcome."""
    unmeasured: int
    """Of them, those whose usage is not known: running, missing, stuck, cancelled or of unknown outcome."""
    unpriced: int
    """Of them, those whose usage is known and has no price: the list of prices lacks the model, tier or window."""
    estimated: int
    """Of them, those whose usage is an estimate from the output that was seen."""
    input_tokens: int
    cached_tokens: int
    """Part of `input_tokens`."""
    cache_write_tokens: int
    """Part of `input_tokens`."""
    output_tokens: int
    reasoning_tokens: int
    """Part of `output_tokens`."""
    web_search_calls: int
    file_search_calls: int
    containers: int
    """Containers of the code interpreter."""


@with_config(_DOCUMENTED)
class CostGroup(CostView):
    """The costs of one group. A field of `by` names the group."""

    tenant: NotRequired[str]
    model: NotRequired[str]
    """The model that ran. Empty for an adopted response whose model is not known yet."""
    asked_model: NotRequired[str]
    """The model of the submission."""
    asked_models: NotRequired[list[str]]
    """In groups by `model` and not by `asked_model`: the models of the submissions, where another than `model` is among
    them; at most 20.
    """
    tag: NotRequired[str]
    """Empty for jobs without a tag."""
    day: NotRequired[date]
    outcome: NotRequired[SpendOutcome]
    """Of the attempt, not of its job."""
    service_tier: NotRequired[str]
    window: NotRequired[str]
    cache_policy: NotRequired[str]
    """Policy for `prompt_cache_key`; empty for jobs without a key."""
    cache_key: NotRequired[str]
    """The `prompt_cache_key` that the submissions named; empty for none."""


@with_config(_DOCUMENTED)
class CostsView(TypedDict):
    """Costs of whole days (UTC), dearest first."""

    object: Literal["costs"]
    since: date
    until: date
    """The last day, included."""
    by: list[By]
    prices_as_of: date
    """The date of the list of prices."""
    total: CostView
    data: list[CostGroup]
    truncated: bool
    """Whether there are more groups, cheaper ones. The total counts all."""


@with_config(_DOCUMENTED)
class AttemptCost(CostView):
    """What one attempt of a job used."""

    attempt: int
    response_id: NotRequired[str]
    """Left out for an attempt of unknown outcome."""
    model: NotRequired[str]
    """The model that ran, where it is not the one of the submission."""
    outcome: SpendOutcome
    service_tier: NotRequired[str]
    window: NotRequired[str]


@with_config(_DOCUMENTED)
class JobCostView(CostView):
    """What a job cost so far, over all its attempts, those after its end included."""

    by_attempt: list[AttemptCost]


@dataclass(slots=True)
class Tally:
    """A running sum of amounts and their cost."""

    counts: SpendCounts = SpendCounts()  # noqa: RUF009 - frozen
    atto: int = 0
    priced: int = 0
    unpriced: int = 0

    def add(self, what: Priced, counts: SpendCounts, prices: Prices) -> None:
        cost = prices.cost(what, counts) if any(getattr(counts, name) for name in USED) else 0
        self.counts = SpendCounts(*(getattr(self.counts, name) + getattr(counts, name) for name in COUNTS))
        if cost is None:
            self.unpriced += counts.measured
        else:
            self.priced += counts.measured
            self.atto += cost

    def view(self) -> CostView:
        counts = self.counts
        view: CostView = {
            "attempts": counts.attempts, "unmeasured": counts.attempts - counts.measured, "unpriced": self.unpriced,
            "estimated": counts.estimated, "input_tokens": counts.input_tokens, "cached_tokens": counts.cached_tokens,
            "cache_write_tokens": counts.cache_write_tokens, "output_tokens": counts.output_tokens,
            "reasoning_tokens": counts.reasoning_tokens, "web_search_calls": counts.web_search_calls,
            "file_search_calls": counts.file_search_calls, "containers": counts.containers,
        }  # fmt: skip
        if self.atto or self.priced == counts.attempts:
            return {"cost_usd": dollars(self.atto), **view}
        return view


COST_FIELDS: Final = ("cost_usd", *(name for name in CostView.__annotations__ if name != "cost_usd"))
USED: Final = tuple(each.name for each in fields(Used))


def columns_of(by: Iterable[By]) -> tuple[str, ...]:
    """The columns of the sums that a question needs: those that decide prices first."""
    return tuple(dict.fromkeys((*PRICED_BY, *(_COLUMNS[name] for name in by))))


@dataclass(frozen=True, slots=True)
class CostQuestion:
    """Which costs are asked for. `tenant`: None for all. The days are numbers since 1970-01-01, both included."""

    tenant: str | None
    by: tuple[By, ...]
    first_day: int
    last_day: int

    @property
    def about(self) -> About:
        """The sums that answer the question."""
        return "tag" if "tag" in self.by else "cache_key" if "cache_key" in self.by else "all"


def costs(
    asked: CostQuestion, sums: Sequence[Sequence[Any]], total: Sequence[Sequence[Any]], prices: Prices
) -> CostsView:  # fmt: skip
    """The answer. `sums`: rows of `columns_of(by)` and `COUNTS`; `total`: rows of `PRICED_BY` and `COUNTS`, of all."""
    by = asked.by
    columns = columns_of(by)
    places = [columns.index(_COLUMNS[name]) for name in by]
    tallies: dict[tuple[Any, ...], Tally] = {}
    askers: dict[tuple[Any, ...], set[str]] = {}
    for row in sums if by else ():
        what, counts = priced(columns, row)
        key = tuple(what.ran if name == "model" else row[place] for name, place in zip(by, places, strict=True))
        tallies.setdefault(key, Tally()).add(what, counts, prices)
        if "model" in by and "asked_model" not in by:
            askers.setdefault(key, set()).add(what.model)
    whole = Tally()
    for row in total:
        whole.add(*priced(PRICED_BY, row), prices)
    # The dearest first; equal ones by name, so that an answer does not depend on the database.
    ordered = sorted(tallies.items(), key=lambda item: (-item[1].atto, -item[1].counts.attempts, item[0]))
    return {
        "object": "costs",
        "since": day_of(asked.first_day),
        "until": day_of(asked.last_day),
        "by": list(by),
        "prices_as_of": prices.as_of,
        "total": whole.view(),
        "data": [_group_view(by, key, tally, askers.get(key)) for key, tally in ordered[:GROUPS_MAX]],
        "truncated": len(ordered) > GROUPS_MAX,
    }


def job_cost(spends: Sequence[Spend], model: str, prices: Prices) -> JobCostView:
    """What these spends of one job cost."""
    whole, parts = Tally(), list[AttemptCost]()
    for spend in spends:
        group = group_of(spend, SpendOwner("", model))
        what, counts, own = _priced_as(group), counts_of(spend), Tally()
        own.add(what, counts, prices)
        whole.add(what, counts, prices)
        named = {
            "response_id": spend.response_id,
            "model": group.served,
            "service_tier": group.tier,
            "window": group.window,
        }
        part = {"attempt": spend.attempt, "outcome": spend.outcome, **own.view(), **_without_empty(named)}
        parts.append(cast("AttemptCost", part))
    return {**whole.view(), "by_attempt": parts}


@dataclass(frozen=True, slots=True)
class CostChange:
    """What one batch of facts added, for metrics; never negative."""

    usd: float
    unpriced: int
    tokens: dict[str, int]


OTHER_MODEL: Final = "other"


def changes_by_model(sums: Sums, prices: Prices) -> dict[str, CostChange]:
    """The changes of the sums by model. Models without a price on any day are `other`: labels are bounded."""
    tallies: dict[str, Tally] = {}
    for group, counts in sums.items():
        if group.about == "all":
            ran = (group.served, group.model)
            name = next((each for each in ran if each in prices.models), OTHER_MODEL)
            tallies.setdefault(name, Tally()).add(
                _priced_as(group), SpendCounts(*(counts[each] for each in COUNTS)), prices
            )  # fmt: skip
    return {name: _change(tally) for name, tally in tallies.items()}


def _priced_as(group: Group) -> Priced:
    return Priced(day_of(group.day), group.model, group.served, group.tier, group.window, bool(group.long))


def _change(tally: Tally) -> CostChange:
    counts = tally.counts
    tokens = {
        "input": counts.input_tokens, "cached": counts.cached_tokens, "output": counts.output_tokens,
        "reasoning": counts.reasoning_tokens,
    }  # fmt: skip
    return CostChange(
        max(0, tally.atto) / ATTO, max(0, tally.unpriced), {kind: max(0, count) for kind, count in tokens.items()}
    )


def day_of(day: int) -> date:
    """A day by its number since 1970-01-01."""
    return datetime.fromtimestamp(day * DAY_MS // 1000, UTC).date()


def number_of(day: date) -> int:
    return (day - date(1970, 1, 1)).days


def priced(columns: Sequence[str], row: Sequence[Any]) -> tuple[Priced, SpendCounts]:
    """A row of sums: what decides its price, and its amounts. `columns` begin with `PRICED_BY`."""
    day, model, served, tier, window, long = row[: len(PRICED_BY)]
    counts = SpendCounts(*(int(value) for value in row[len(columns) :]))
    return Priced(day_of(day), model, served, tier, window, bool(long)), counts


def _group_view(by: Sequence[By], key: tuple[Any, ...], tally: Tally, askers: set[str] | None) -> CostGroup:
    names: Any = {name: day_of(value) if name == "day" else value for name, value in zip(by, key, strict=True)}
    if askers is not None and askers != {names["model"]}:
        names["asked_models"] = sorted(askers)[:ASKED_MAX]
    return cast("CostGroup", {**names, **tally.view()})


def _without_empty(named: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in named.items() if value}
