"""Costs over a real server, on every kind of database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from backstop.cli.main import app as command
from backstop.readmodel.budgets import Budget, Spending
from receiver.reads.costs import add_cost_routes
from receiver.reads.why import add_why_route
from schemas.base import Terms, Usage
from schemas.fallbacks import Fallback, Fallbacks
from schemas.prompt_cache import PromptCache
from streams.policy.prices import read_prices
from tests.unit.backstop.readmodel.api import Api as JobsApi
from tests.unit.backstop.readmodel.api import api as jobs_api
from tests.unit.backstop.readmodel.conftest import Bench
from tests.unit.backstop.readmodel.logs import (
    accepted,
    cancelled,
    rejected,
    result_of,
    settled,
    submitted,
    timer,
    unknown,
)
from tests.unit.backstop.readmodel.projection import Projection
from tests.unit.backstop.readmodel.serving import Client, served

DAY_MS = 86_400_000
TODAY = 20_786
"""2026-11-29."""
PRICES = """
as_of = 2026-11-01
[window_percent]
8h = 60
[[price]]
model = "m"
valid_from = 2026-01-01
input = 2
cached_input = 0.5
output = 8
tier_percent = { flex = 50 }
"""


class Api(Client):
    async def get(self, query: str = "", status: int = 200, tenant: str = "default") -> Any:
        return await self._get(f"/v1/costs{query}", status, tenant)

    async def why(self, job_id: str, status: int = 200, tenant: str = "default") -> Any:
        return await self._get(f"/v1/jobs/{job_id}/why", status, tenant)

    async def _get(self, path: str, status: int, tenant: str) -> Any:
        async with self.session.get(path, headers={"X-Test-Tenant": tenant}) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json(content_type=None)


@asynccontextmanager
async def api(bench: Bench, *budgets: Budget) -> AsyncIterator[Api]:
    projection = await Projection(bench.another()).take_over()
    app = web.Application()
    now_ms = TODAY * DAY_MS + 1
    database, prices = bench.another(), read_prices(PRICES)
    add_cost_routes(
        app, database, lambda r: r.headers.get("X-Test-Tenant", "default"), lambda: now_ms, Spending(budgets, prices)
    )  # fmt: skip
    add_why_route(app, database, lambda r: r.headers["X-Test-Tenant"], lambda: now_ms, prices)
    async with served(app) as session:
        yield Api(session, projection)


def job(job_id: str, day: int = TODAY, *, used: Usage | None = None, terms: Terms | None = None, **more: Any) -> Any:
    """A job that ended on the day, with its facts but the result."""
    at_ms = day * DAY_MS
    fields = {"deadline_at_ms": at_ms + 10_000_000, "tenant": "default", "model": "m"} | more
    end = settled(job_id, at_ms + 9_000, response_id=f"resp_{job_id}")
    taken = accepted(job_id, at_ms + 2_000, response_id=f"resp_{job_id}").model_copy(
        update={"tenant": fields["tenant"]}
    )
    return [submitted(job_id, at_ms, **fields), taken, end.model_copy(update={"usage": used, "terms": terms})]


USED = Usage(input_tokens=1_000, cached_tokens=400, output_tokens=100, reasoning_tokens=60, total_tokens=1_100)
COST = "0.0022"  # (600 × 2 + 400 × 0.5 + 100 × 8) / 1,000,000


def test_every_attempt_counts_and_what_is_not_known_is_named(run) -> None:
    async def body(bench: Bench) -> None:
        async with api(bench) as client:
            assert (await client.get())["total"]["cost_usd"] == "0"  # Nothing was used: that is known.
            await client.take(*job("plain", used=USED), *job("flex", used=USED, terms=Terms(service_tier="flex")))
            await client.take(*job("window", used=USED, terms=Terms(window="8h", service_tier="default")))
            await client.take(*job("odd", used=USED, model="unheard-of"))
            await client.take(*job("empty"), *job("cut")[:2], cancelled("cut", TODAY * DAY_MS + 5_000))
            await client.take(*job("lost")[:1], unknown("lost", TODAY * DAY_MS + 3_000))
            answer = await client.get("?by=model,outcome")
            named = {(group["model"], group["outcome"]): group for group in answer["data"]}
            assert named["m", "completed"]["cost_usd"] == "0.00462"  # 0.0022 × (1 + 0.5 + 0.6)
            amounts = ("attempts", "unmeasured", "unpriced")
            assert {key: tuple(group[name] for name in amounts) for key, group in named.items()} == {
                ("m", "completed"): (4, 1, 0), ("unheard-of", "completed"): (1, 0, 1), ("m", "running"): (1, 1, 0),
                ("m", "unknown"): (1, 1, 0),
            }  # fmt: skip
            for key in (("unheard-of", "completed"), ("m", "running"), ("m", "unknown")):
                assert "cost_usd" not in named[key]
            total = answer["total"]
            assert (total["cost_usd"], total["attempts"], total["unmeasured"], total["unpriced"]) == (
                "0.00462",
                7,
                3,
                1,
            )
            assert (total["input_tokens"], total["cached_tokens"]) == (4_000, 1_600)
            assert (answer["since"], answer["until"], answer["prices_as_of"]) == (
                "2026-10-31", "2026-11-29", "2026-11-01",
            )  # fmt: skip

    run(body)


def test_groups_by_day_tag_tier_and_window(run) -> None:
    async def body(bench: Bench) -> None:
        async with api(bench) as client:
            await client.take(*job("a", TODAY - 1, used=USED, tags=("x", "y"), terms=Terms(window="8h")))
            await client.take(*job("b", used=USED, tags=("x",)), *job("c", used=USED))

            async def read(query: str) -> dict[Any, Any]:
                answer = await client.get(query)
                return {tuple(group[name] for name in answer["by"]): group["cost_usd"] for group in answer["data"]}

            assert await read("?by=day") == {("2026-11-29",): "0.0044", ("2026-11-28",): "0.00132"}
            assert await read("?by=day&since=2026-11-28&until=2026-11-28") == {("2026-11-28",): "0.00132"}
            assert await read("?by=tag") == {("x",): "0.00352", ("",): COST, ("y",): "0.00132"}
            assert await read("?by=tag,day&since=2026-11-29") == {("x", "2026-11-29"): COST, ("", "2026-11-29"): COST}
            assert await read("?by=window,service_tier") == {("", ""): "0.0044", ("8h", ""): "0.00132"}
            assert await read("?by=tenant,tenant") == {("default",): "0.00572"}
            assert (await client.get("?by="))["data"] == []
            assert (await client.get("?by=tag"))["total"]["cost_usd"] == "0.00572", "a job counts once in the total"

    run(body)


FALLBACK = Fallbacks(to=(Fallback(model="m"),))


def fell(job_id: str, told: str | None) -> list[Any]:
    """A job whose model refuses for good, so that it goes on with `m`; the response names `told`."""
    first, taken, end = job(job_id, used=USED, model="asked", fallback=FALLBACK, terms=Terms(model=told))
    refused = rejected(job_id, first.at_ms + 500, cause="never")
    again = timer(job_id, first.at_ms + 500, first.at_ms + 500)
    return [first, refused, again, taken.model_copy(update={"attempt": 2}), end.model_copy(update={"attempt": 2})]


@pytest.mark.parametrize("told", [None, "m", "m-2026-08-07"])
def test_a_fallback_counts_under_the_model_that_ran_and_names_the_one_asked_for(run, told: str | None) -> None:
    async def body(bench: Bench) -> None:
        async with api(bench) as client:
            facts = fell("fell", told)
            await client.take(*facts[:4])
            (group,) = (await client.get())["data"]
            assert (group["model"], group["asked_models"], group["unmeasured"]) == ("m", ["asked"], 1)
            assert "cost_usd" not in group
            await client.take(facts[4], *job("plain", used=USED))
            (group,) = (await client.get())["data"]
            assert (group["model"], group["asked_models"], group["cost_usd"]) == ("m", ["asked", "m"], "0.0044")
            both = (await client.get("?by=asked_model,model"))["data"]
            assert [(each["asked_model"], each["model"], each["cost_usd"]) for each in both] == [
                ("asked", "m", COST), ("m", "m", COST),
            ]  # fmt: skip
            assert all("asked_models" not in each for each in both)
            assert {each["asked_model"] for each in (await client.get("?by=asked_model"))["data"]} == {"asked", "m"}

    run(body)


@pytest.mark.parametrize("late", [False, True])
def test_a_fallback_that_ends_after_its_job_keeps_its_model(run, late: bool) -> None:
    """The job is cancelled while the create of the fallback is out. Its response does not name a model."""

    async def body(bench: Bench) -> None:
        async with api(bench) as client:
            first, refused, again, taken, end = fell("fell", None)
            stop = cancelled("fell", first.at_ms + 1_000)
            await client.take(first, refused, again, *((stop, taken) if late else (taken, stop)), end)
            (group,) = (await client.get())["data"]
            assert (group["model"], group["asked_models"], group["cost_usd"]) == ("m", ["asked"], COST)

    run(body)


def test_what_is_known_to_cost_nothing_is_not_told_as_0_beside_what_has_no_price(run) -> None:
    """A first attempt that failed for free, and a second one whose model has no price."""

    async def body(bench: Bench) -> None:
        async with api(bench) as client:
            first, taken, end = job("odd", used=USED, model="odd", terms=Terms(service_tier="default"))
            failed = settled("odd", end.at_ms - 1, response_id="resp_2").model_copy(
                update={"status": "failed", "usage": None, "cause": "faulty"}
            )
            await client.take(first, taken, failed, end)
            answer = await client.get()
            for view in (answer["total"], *answer["data"]):
                assert view["unpriced"] == 1
                assert "cost_usd" not in view

    run(body)


def test_hits_of_the_cache_are_told_by_policy_and_key(run) -> None:
    async def body(bench: Bench) -> None:
        async with api(bench) as client:
            missed = USED.model_copy(update={"cached_tokens": 0})
            for number, (policy, key, used) in enumerate(
                [("shard", "hot", USED), ("shard", "hot", USED), ("as_is", "hot", missed), ("spread", None, missed)]
            ):
                cache = PromptCache(policy=policy, key=key)
                await client.take(*job(f"j{number}", used=used, prompt_cache=cache))
            await client.take(*job("plain", used=missed))
            answer = await client.get("?by=cache_policy,cache_key")
            assert {
                (group["cache_policy"], group["cache_key"]): (group["cached_tokens"], group["input_tokens"])
                for group in answer["data"]
            } == {
                ("shard", "hot"): (800, 2_000), ("as_is", "hot"): (0, 1_000), ("spread", ""): (0, 1_000),
                ("", ""): (0, 1_000),
            }  # fmt: skip
            assert [group["cached_tokens"] for group in (await client.get("?by=cache_policy"))["data"]].count(800) == 1
            assert (await client.get("?by=tag,cache_key", 400))["code"] == "bad_parameter"

    run(body)


def test_a_tenant_sees_its_own_costs_only(run) -> None:
    async def body(bench: Bench) -> None:
        async with api(bench) as client:
            await client.take(*job("acme:a", used=USED, tenant="acme"), *job("b", used=USED))
            for tenant in ("acme", "default"):
                answer = await client.get("?by=tenant", tenant=tenant)
                assert [(group["tenant"], group["attempts"]) for group in answer["data"]] == [(tenant, 1)]
            assert (await client.get("?by=tenant", tenant="globex"))["data"] == []

    run(body)


@pytest.mark.parametrize(
    "query",
    [
        "?by=secret", "?by=model,", "?since=yesterday", "?since=20261129", "?since=0", "?since=2026-13-01",
        "?until=2300-01-01",
        "?since=2026-11-30", "?since=2026-11-02&until=2026-11-01", "?since=1999-01-01", "?by=name;DROP TABLE costs",
    ],
)  # fmt: skip
def test_a_question_that_makes_no_sense_is_refused(run, query: str) -> None:
    async def body(bench: Bench) -> None:
        async with api(bench) as client:
            answer = await client.get(query, 200 if query == "?by=model," else 400)
            assert query == "?by=model," or answer["code"] == "bad_parameter"

    run(body)


def test_a_job_tells_what_it_cost_so_far(run, tmp_path) -> None:
    async def body(bench: Bench) -> None:
        async with jobs_api(bench, tmp_path) as client:
            assert isinstance(client, JobsApi)
            facts = job("j", used=USED, model="gpt-5")
            await client.take(facts[0])
            assert "cost" not in await client.get("/v1/jobs/j")
            await client.take(facts[1])
            running = (await client.get("/v1/jobs/j"))["cost"]
            assert (running["attempts"], running["unmeasured"], running.get("cost_usd")) == (1, 1, None)
            await client.take(facts[2], result_of(*facts))
            cost = (await client.get("/v1/jobs/j"))["cost"]
            assert cost["cost_usd"] == "0.0018"  # (600 × 1.25 + 400 × 0.125 + 100 × 10) / 1,000,000
            (attempt,) = cost["by_attempt"]
            assert attempt == {
                **{name: value for name, value in cost.items() if name != "by_attempt"},
                "attempt": 1, "response_id": "resp_j", "outcome": "completed",
            }  # fmt: skip

    run(body)


def test_a_job_says_why_it_stands_where_it_does_and_what_it_cost(run) -> None:
    async def body(bench: Bench) -> None:
        async with api(bench) as client:
            facts = job("j", used=USED)
            await client.take(facts[0])
            told = await client.why("j")
            assert told["sentences"][0].startswith("Attempt 1 waits for the provider to accept it, since 0 s; ")
            assert told["sentences"][-1] == "So far it cost nothing."
            await client.take(facts[1])
            told = await client.why("j")
            assert (told["status"], told["next_at_ms"]) == ("running", TODAY * DAY_MS + 7_000)
            assert "the next poll is at 00:00:07 UTC (in 6 s)" in told["sentences"][0]
            await client.take(facts[2], result_of(*facts))
            assert await client.why("j") == {
                "object": "why", "job_id": "j", "status": "completed",
                "sentences": [
                    "The job completed, 9 s after its submission.",
                    "It cost $0.0022 (1,000 input and 100 output tokens).",
                ],
            }  # fmt: skip
            assert (await client.why("j", 404, tenant="acme"))["code"] == "job_not_found"
            assert (await client.why("unheard-of", 404))["code"] == "job_not_found"

    run(body)


def budget_of(usd: str, *, stop: bool = False, tenant: str = "default", per: Any = "day") -> Budget:
    return Budget(tenant=tenant, per=per, usd=Decimal(usd), stop=stop)


def test_budgets_are_told_with_what_is_spent_reserved_and_left_the_alarm_and_the_stop(run) -> None:
    """Over HTTP, and by `backstop costs`. Each job costs $0.0022, and one more runs."""

    async def body(bench: Bench) -> None:
        budgets = budget_of("0.0044", stop=True), budget_of("0.0024", per="month"), budget_of("1", tenant="acme")
        async with api(bench, *budgets) as client:
            facts = [*job("done", used=USED), *job("runs")[:2], *job("odd", used=USED, model="unheard-of")]
            await client.take(*facts)
            day, month = (await client.get())["budgets"]
            assert day == {
                "per": "day", "since": "2026-11-29", "limit_usd": "0.0044", "spent_usd": "0.0022",
                "reserved_usd": "0.0022", "unknown": 2, "warn_percent": 80, "near": False, "stops": True,
                "used_up": True,
            }  # fmt: skip
            assert (month["since"], month["near"], month["stops"]) == ("2026-11-01", True, False)
            assert "used_up" not in month
            assert [each["limit_usd"] for each in (await client.get(tenant="acme"))["budgets"]] == ["1"]
            async with client.session.get("/v1/costs") as answer:
                url = str(answer.url.origin())
            told = await asyncio.to_thread(CliRunner().invoke, command, ["costs", "--url", url])
        assert told.exit_code == 0, told.output
        lines = [line for line in told.stderr.splitlines() if line.startswith("budget per ")]
        day_line = "budget per day, since 2026-11-29: $0.0022 spent and $0.0022 reserved of $0.0044"
        month_line = "budget per month, since 2026-11-01: $0.0022 spent and $0 reserved of $0.0024"
        assert lines == [
            f"{day_line}, 2 attempts of unknown cost; creates are held",
            f"{month_line}, 2 attempts of unknown cost; alarm: 80 % are spent",
        ]

    run(body)
