"""The course over time: refused creates and costs by minute, from facts to the route, on every kind of database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, get_args

import pytest
from aiohttp import web

from backstop.readmodel import queries
from backstop.readmodel.batch import Known, project
from backstop.readmodel.budgets import Spending
from backstop.readmodel.minutes import KEPT_MS, minutes_before, trim_minutes
from backstop.readmodel.refusals import NOT_SENT, CreateRefusal, refused_view
from backstop.readmodel.spending import DAY_MS, MINUTE_MS
from receiver.reads.overview import BesideReadModel, add_overview_routes
from schemas.base import Cause, Message
from schemas.jobs import JobSubmitted
from streams.policy.prices import read_prices
from tests.unit.backstop.readmodel.conftest import NOW_MS, Bench
from tests.unit.backstop.readmodel.logs import (
    Log,
    accepted,
    cancelled,
    rejected,
    result_of,
    settled,
    submitted,
    unknown,
    whole_job,
)
from tests.unit.backstop.readmodel.projection import Projection
from tests.unit.backstop.readmodel.serving import RIGHTS, Client, running, served

PRICES = """
as_of = 1970-01-01
[[price]]
model = "m"
valid_from = 1970-01-01
input = 2
output = 8
"""
COST = "0.000066"  # (5 × 2 + 7 × 8) / 1,000,000
NONE = {"limited": 0, "overloaded": 0, "other": 0}


def refusals(*facts: Message) -> dict[CreateRefusal, int]:
    return dict(project(Log().put(*facts), Known()).refusals)


@pytest.mark.parametrize("cause", get_args(Cause))
def test_a_refusal_by_the_provider_counts_in_its_minute(cause: Cause) -> None:
    found = refusals(submitted(), rejected(at_ms=2 * MINUTE_MS + 1, cause=cause))
    assert found == ({} if cause in NOT_SENT else {CreateRefusal("default", 2, cause): 1})


@pytest.mark.parametrize(
    "facts",
    [
        (submitted(), rejected(cause="limited"), rejected(cause="limited")),
        (submitted(), unknown(), rejected(cause="limited"), rejected(at_ms=2_500, cause="limited")),
        # Those do not count: a report after the job's end, of an attempt that has a response, and of no job.
        (submitted("j"), rejected(cause="limited"), submitted("k"), cancelled("k"), rejected("k", 4_000)),
        (submitted("j"), rejected(cause="limited"), submitted("k"), accepted("k"), rejected("k", 4_000)),
        (submitted("j"), rejected(cause="limited"), rejected("k")),
    ],
)
def test_a_refusal_counts_once_and_only_where_the_fold_takes_it(facts: tuple[Message, ...]) -> None:
    assert refusals(*facts) == {CreateRefusal("default", 0, "limited"): 1}


def test_what_is_no_rate_limit_and_no_lack_of_capacity_is_told_as_other() -> None:
    assert refused_view({"limited": 3, "overloaded": 2, "account": 4, "never": 1}) == {
        "limited": 3, "overloaded": 2, "other": 5,
    }  # fmt: skip
    assert refused_view({}) == NONE


class Api(Client):
    now_ms = 3 * MINUTE_MS

    async def course(self, since_ms: int = 0, tenant: str = "default") -> list[dict[str, Any]]:
        headers = {"X-Test-Tenant": tenant, "X-Test-Scopes": "read"}
        async with self.session.get(f"/v1/stats?since={since_ms}", headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return list((await answer.json())["course"])


@asynccontextmanager
async def api(bench: Bench) -> AsyncIterator[Api]:
    projection = await Projection(bench.another()).take_over()
    app = web.Application()
    held: list[Api] = []
    beside = BesideReadModel(spending=Spending((), read_prices(PRICES)))
    add_overview_routes(app, bench.another(), RIGHTS, lambda: held[0].now_ms, 1_000, beside)
    async with served(app) as session:
        held.append(Api(session, projection))
        yield held[0]


@pytest.fixture
def with_api(run: Any) -> Any:
    return running(run, api)


def job(job_id: str, minute: int = 0, model: str = "m") -> list[Message]:
    """A job that the provider took in this minute, with usage, and that ended in the next."""
    at_ms = minute * MINUTE_MS
    return [
        submitted(job_id, at_ms + 1_000, model=model),
        accepted(job_id, at_ms + 2_000, response_id=f"resp_{job_id}"),
        settled(job_id, at_ms + MINUTE_MS, response_id=f"resp_{job_id}"),
    ]


def declined(job_id: str, cause: Cause, at_ms: int = 2_000) -> tuple[JobSubmitted, Message]:
    return submitted(job_id, at_ms - 1), rejected(job_id, at_ms, cause=cause)


def test_refusals_and_costs_are_told_by_the_minute_and_a_cost_that_is_not_known_is_no_0(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(*job("a"), *job("b"), *job("odd", model="unheard-of"), *job("runs")[:2])
        await api.take(*job("open", 1)[:2])
        for number, cause in enumerate(get_args(Cause)):
            await api.take(*declined(f"r{number}", cause, MINUTE_MS + number))
        await api.take(*declined("again", "limited", 2 * MINUTE_MS), *declined("early", "limited"))
        first, second, third = await api.course()
        assert (first["from_ms"], first["refused"], first["spent"]) == (
            0, {**NONE, "limited": 1}, {"attempts": 4, "unmeasured": 1, "unpriced": 1, "cost_usd": "0.000132"},
        )  # fmt: skip
        assert (second["from_ms"], second["refused"], second["spent"]) == (
            MINUTE_MS, {"limited": 1, "overloaded": 1, "other": 5}, {"attempts": 1, "unmeasured": 1, "unpriced": 0},
        )  # fmt: skip
        nothing = {"attempts": 0, "unmeasured": 0, "unpriced": 0, "cost_usd": "0"}
        assert (third["refused"], third["spent"]) == ({**NONE, "limited": 1}, nothing)
        assert [each["from_ms"] for each in await api.course(MINUTE_MS)] == [MINUTE_MS, 2 * MINUTE_MS]
        await api.take(job("open", 1)[2])
        assert (await api.course())[1]["spent"]["cost_usd"] == COST, "it is known once the usage is"
        await api.take(job("open", 1)[2])
        assert (await api.course())[1]["spent"] == {"attempts": 1, "unmeasured": 0, "unpriced": 0, "cost_usd": COST}

    with_api(body)


def test_each_tenant_sees_its_own_refusals_and_costs(with_api: Any) -> None:
    async def body(api: Api) -> None:
        theirs = submitted("x:r", tenant="x"), rejected("x:r", cause="limited")
        await api.take(*declined("r", "overloaded"), *theirs, *job("a"))
        (ours,), (other,) = await api.course(), await api.course(tenant="x")
        assert (ours["refused"], ours["spent"]["attempts"]) == ({**NONE, "overloaded": 1}, 1)
        assert (other["refused"], other["spent"]["attempts"]) == ({**NONE, "limited": 1}, 0)

    with_api(body)


def test_minutes_are_told_together_in_longer_periods(with_api: Any) -> None:
    async def body(api: Api) -> None:
        api.now_ms = 300 * MINUTE_MS
        for minute in (0, 4, 5):
            await api.take(*job(f"j{minute}", minute), *declined(f"r{minute}", "limited", minute * MINUTE_MS + 1))
        found = [
            (each["from_ms"], each["refused"]["limited"], each["spent"]["cost_usd"]) for each in await api.course()
        ]
        assert found == [(0, 2, "0.000132"), (5 * MINUTE_MS, 1, COST)]

    with_api(body)


def test_of_times_whose_minutes_are_gone_nothing_is_told(with_api: Any) -> None:
    async def body(api: Api) -> None:
        young = NOW_MS - DAY_MS
        old = young - 3 * KEPT_MS
        for number, at_ms in enumerate((old, young)):
            facts = submitted(f"j{number}", at_ms), rejected(f"j{number}", at_ms + 1, cause="never")
            await api.take(*facts, result_of(*facts))
        api.now_ms = NOW_MS
        for _ in range(2):
            was, now = await api.course(old)
            assert "refused" not in was
            assert "spent" not in was
            assert now["refused"] == {**NONE, "other": 1}
            await api.projection.database.write(lambda conn: trim_minutes(conn, NOW_MS))

    with_api(body)


def test_old_minutes_are_removed_and_a_rebuild_equals_what_it_replaces_all_the_same(run: Any) -> None:
    async def body(bench: Bench) -> None:
        days = [NOW_MS - day * DAY_MS for day in (20, 9, 1)]
        facts = [
            fact
            for number, at_ms in enumerate(days)
            for fact in (
                *(submitted(f"r{number}", at_ms), rejected(f"r{number}", at_ms + 1, cause="limited")),
                *job(f"j{number}", at_ms // MINUTE_MS)[: 2 + number % 2],
            )
        ]
        late = job("j0", days[0] // MINUTE_MS)[2]
        one = await Projection(bench.another()).take_over()
        log = Log()
        await one.take(log.put(*facts))
        whole = await one.database.read(queries.digest)
        assert await one.database.write(lambda conn: trim_minutes(conn, NOW_MS)) == 4
        assert await one.database.write(lambda conn: trim_minutes(conn, NOW_MS + MINUTE_MS)) == 0, "once an hour"
        assert await one.database.read(queries.digest) != whole
        await one.take(log.put(late))  # It changes sums that are gone.
        mark = await one.database.read(minutes_before)
        live = await one.database.read(partial(queries.digest, minutes_before=mark))

        bench.now_ms += 1
        again = Projection(one.database.for_rebuild())
        await again.take_over()
        for record in Log().put(*facts, late):
            await again.take([record])
        assert await again.database.read(partial(queries.digest, minutes_before=mark)) == live
        assert await again.database.read(queries.digest) != live, "without the mark they are not equal"
        await again.take(log.put(*declined("more", "limited", NOW_MS)))
        assert await again.database.read(partial(queries.digest, minutes_before=mark)) != live

    run(body)


def test_batches_of_any_size_count_the_same(run: Any) -> None:
    async def body(bench: Bench) -> None:
        facts = [
            *declined("a", "limited"), *declined("b", "limited"), *declined("c", "overloaded", 2 * MINUTE_MS),
            rejected("a", cause="limited"), *whole_job("d", "resp_d"),
        ]  # fmt: skip

        def counted(conn: Any) -> list[tuple[Any, ...]]:
            return conn.rows("SELECT tenant, minute, cause, creates FROM refusals ORDER BY tenant, minute, cause")

        one = await Projection(bench.another()).take_over()
        for record in Log().put(*facts):
            await one.take([record])
        stepwise = await one.database.read(counted), await one.database.read(queries.digest)
        assert stepwise[0] == [("default", 0, "limited", 2), ("default", 2, "overloaded", 1)]
        bench.now_ms += 1
        again = await Projection(one.database.for_rebuild()).take_over()
        await again.take(Log().put(*facts))
        assert (await again.database.read(counted), await again.database.read(queries.digest)) == stepwise

    run(body)
