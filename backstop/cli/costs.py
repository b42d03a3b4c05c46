"""`backstop costs`: what attempts used and cost, over the HTTP API or, for all tenants, from the read model."""

import asyncio
import csv
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import aiohttp
import typer
from pydantic import ValidationError

from backstop.cli.api import Url, run_against
from backstop.cli.output import DONE, Form, Output, emit, emit_one, fail, tell
from backstop.readmodel.costs import COST_FIELDS
from backstop.readmodel.ledger import ask_costs
from backstop.readmodel.opening import database_at
from backstop.readmodel.settings import ProjectionSettings
from backstop.runtime.errors import BackstopError
from backstop.runtime.http import api_client as http
from backstop.runtime.read_settings import read
from backstop.runtime.startup import prepare
from receiver.reads.costs import CostsQuery, question
from schemas.sentences import sentence

SHOWN: Final = ("cost_usd", "attempts", "unmeasured", "unpriced", "input_tokens", "cached_tokens", "output_tokens")
"""Columns of the table; JSON and CSV have all."""


def costs(
    by: Annotated[
        str,
        typer.Option(
            help="Groups, separated by commas: tenant, model (that ran), asked_model (of the submission), tag, day, "
            "outcome, service_tier, window, cache_policy, cache_key."
        ),
    ] = "model",
    since: Annotated[str | None, typer.Option(help="First day (UTC): 2026-01-31. Default: 29 days before.")] = None,
    until: Annotated[str | None, typer.Option(help="Last day (UTC), included. Default: today.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with all columns.")] = False,
    all_tenants: Annotated[
        bool,
        typer.Option("--all-tenants", help="Read the read model itself (BACKSTOP_DATABASE_URL), for all tenants."),
    ] = False,
    url: Url = None,
    output: Output = Form.TABLE,
) -> None:
    """Show what the attempts of a tenant's jobs used and cost: failed, retried, cancelled and unknown ones included.

    `unmeasured` attempts have no known usage, `unpriced` ones no price; both are in no sum of costs.
    """
    params = {name: value for name, value in (("by", by), ("since", since), ("until", until)) if value is not None}
    if all_tenants:
        _print(_of_all_tenants(params), output, as_csv=as_csv)
        raise typer.Exit(DONE)

    async def run(session: aiohttp.ClientSession) -> int:
        _print(await http.ask(session, "GET", "/v1/costs", params=params), output, as_csv=as_csv)
        return DONE

    run_against(url, run)


def _of_all_tenants(params: dict[str, str]) -> dict[str, Any]:
    settings = read(ProjectionSettings)
    prices = settings.prices()
    now_ms = prepare(settings, "costs")
    try:
        asked = question(CostsQuery.model_validate(params), None, now_ms())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        fail(f"{first['loc'][0]}: {sentence(first)}")
    except BackstopError as error:
        fail(str(error))

    async def run() -> Any:
        database = database_at(settings.readmodel_url, now_ms)
        try:
            return await database.read(lambda conn: ask_costs(conn, asked, prices))
        finally:
            await database.close()

    answer: dict[str, Any] = asyncio.run(run())
    return answer


def _print(answer: dict[str, Any], output: Form, *, as_csv: bool) -> None:
    by, groups = list(answer["by"]), answer["data"]
    asked = ("asked_models",) if any("asked_models" in group for group in groups) else ()
    if as_csv:
        writer = csv.DictWriter(sys.stdout, (*by, *COST_FIELDS, *asked), extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(_harmless(_in_a_line(group)) for group in groups)
    elif output is Form.JSON:
        emit_one(answer)
    elif output is Form.JSONL:
        emit(groups, output, by)
    else:
        total = {**answer["total"], **dict.fromkeys(by, ""), by[0] if by else "total": "total"}
        emit([_in_a_line(_unknown(each)) for each in (*groups, total)], output, (*by, *asked, *SHOWN))
        tell(f"{answer['since']} to {answer['until']} (UTC), prices of {answer['prices_as_of']}")
        for budget in answer.get("budgets", ()):
            tell(_of_budget(budget))
    if answer["truncated"]:
        tell(f"only the {len(groups)} dearest groups are shown; the total counts all")


def _of_budget(budget: dict[str, Any]) -> str:
    unknown = f", {budget['unknown']} attempts of unknown cost" if budget["unknown"] else ""
    held = "; creates are held" if budget.get("used_up") else "; it stops creates" if budget["stops"] else ""
    alarm = f"; alarm: {budget['warn_percent']} % are spent" if budget["near"] else ""
    return (
        f"budget per {budget['per']}, since {budget['since']}: ${budget['spent_usd']} spent and "
        f"${budget['reserved_usd']} reserved of ${budget['limit_usd']}{unknown}{alarm}{held}"
    )


def _unknown(group: dict[str, Any]) -> dict[str, Any]:
    return {"cost_usd": "unknown", **group}


def _in_a_line(group: dict[str, Any]) -> dict[str, Any]:
    asked = group.get("asked_models")
    return group if asked is None else {**group, "asked_models": " ".join(asked)}


def _harmless(group: dict[str, Any]) -> dict[str, Any]:
    """Names that a spreadsheet would take for a formula, as text."""
    return {name: f"'{value}" if _is_formula(value) else value for name, value in group.items()}


def _is_formula(value: object) -> bool:
    starts: Sequence[str] = ("=", "+", "-", "@", "\t", "\r")
    return isinstance(value, str) and value.startswith(tuple(starts))
