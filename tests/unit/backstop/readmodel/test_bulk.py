"""`POST /v1/jobs/cancel` over a real server, on every kind of database: the plan, the batches, and what is refused."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from backstop.runtime.blobs import Bodies, FolderBlobs
from backstop.runtime.claims import FolderClaims
from backstop.runtime.http.keys import TenantLimits
from backstop.runtime.kafka.reporting import Reporting
from receiver.access.priorities import limited_by
from receiver.access.quotas import Quotas, knows_no_load
from receiver.app import _answer_with_problems
from receiver.ingress.previous import PreviousResponses
from receiver.ingress.submissions import KnownIds, Submissions
from receiver.limits import Limits
from receiver.metrics import ReceiverMetrics
from receiver.reads.bulk import add_bulk_routes
from receiver.reads.bulk_retries import Retrying
from receiver.reads.bulk_routes import BATCH_MAX, IDS_MAX
from receiver.reads.lanes import Publishing
from receiver.reads.lookups import DatabaseReads
from receiver.responses_api.responses import Responses
from schemas.base import Priority, Terms
from schemas.jobs import CancelRequested
from schemas.prompt_cache import CacheRule
from streams.policy.prices import read_prices
from streams.submission import SubmissionPolicy
from tests.support.memory_publisher import MemoryPublisher
from tests.unit.backstop.readmodel.conftest import Bench
from tests.unit.backstop.readmodel.logs import accepted, cancelled, rejected, settled, submitted, whole_job
from tests.unit.backstop.readmodel.projection import Projection
from tests.unit.backstop.readmodel.serving import RIGHTS, Client, running, served
from tests.unit.backstop.readmodel.test_costs import DAY_MS, PRICES, TODAY

NOW_MS = TODAY * DAY_MS + 5_000_000
RULE = CacheRule(policy="shard", key="hot", shards=4)
POLICY = SubmissionPolicy(prompt_cache_rules=(RULE,))
ADMIN, OPERATOR = "read,operate,admin", "read,operate"


class Api(Client):
    def __init__(
        self, session: aiohttp.ClientSession, projection: Projection, publisher: MemoryPublisher, blobs: FolderBlobs,
        shown: Responses,
    ) -> None:  # fmt: skip
        super().__init__(session, projection)
        self.shown = shown
        self.published = publisher
        self.blobs = blobs
        self.priorities: frozenset[Priority] | None = None
        """That the key may give."""

    async def ask(
        self, answered: int = 200, tenant: str = "default", scopes: str = OPERATOR, act: str = "cancel", **body: Any
    ) -> Any:  # fmt: skip
        headers = {"X-Test-Tenant": tenant, "X-Test-Scopes": scopes}
        named = {("tenant" if name == "whose" else name): value for name, value in body.items()}
        async with self.session.post(f"/v1/jobs/{act}", headers=headers, json=named) as answer:
            assert answer.status == answered, await answer.text()
            return await answer.json(content_type=None)

    def cancelled(self) -> list[str]:
        facts = self.published.landed
        assert all(isinstance(fact, CancelRequested) for fact in facts)
        return [fact.key for fact in facts]


@asynccontextmanager
async def api(bench: Bench) -> AsyncIterator[Api]:
    projection = await Projection(bench.another()).take_over()
    publisher, database, limits = MemoryPublisher(), bench.another(), Limits(publish_s=0.2)
    app, registry = web.Application(middlewares=[_answer_with_problems]), CollectorRegistry()
    with TemporaryDirectory() as folder:
        blobs = FolderBlobs(Path(folder))
        submissions = Submissions(
            reporting=Reporting(publisher, ReceiverMetrics(registry), lambda: NOW_MS), bodies=Bodies(blobs, 1_000),
            ids=KnownIds(FolderClaims(Path(folder)), lambda: True, DatabaseReads(database).find_job), policy=POLICY,
            limits=limits,
            quotas=Quotas(
                lambda tenant: TenantLimits(open_jobs_max=3 if tenant == "small" else None), knows_no_load,
                lambda: NOW_MS, registry,
            ),
        )  # fmt: skip
        reads = DatabaseReads(database)

        async def is_hidden(tenant: str, own_id: str) -> bool:
            return await shown.is_hidden(tenant, own_id)

        previous = PreviousResponses(reads, blobs, POLICY, is_hidden, submissions.accepted, limits.appear_s)
        shown = Responses(reads, submissions, previous, blobs, limits)
        publishing = Publishing(publisher, limits, limited_by(lambda _key: found.priorities))
        retrying = Retrying(submissions, blobs, previous.allows_again)
        add_bulk_routes(app, database, RIGHTS, lambda: NOW_MS, read_prices(PRICES), publishing, retrying)
        async with served(app) as session:
            found = Api(session, projection, publisher, blobs, shown)
            yield found


@pytest.fixture
def with_api(run: Any) -> Any:
    return running(run, api)


def test_a_plan_counts_and_prices_and_changes_nothing(with_api: Any) -> None:
    async def body(api: Api) -> None:
        at_ms = TODAY * DAY_MS
        await api.take(
            submitted("done", at_ms, model="m"), accepted("done", at_ms + 1, response_id="r0"),
            settled("done", at_ms + 2, response_id="r0").model_copy(update={"terms": Terms(model="served-by-another")}),
        )  # fmt: skip
        for number in range(3):
            await api.take(
                submitted(f"run{number}", at_ms, model="m"),
                accepted(f"run{number}", at_ms, response_id=f"r{number + 1}"),
            )
        await api.take(submitted("wait", model="m"), rejected("wait"), submitted("other", model="unpriced-model"))
        plan = await api.ask(everything=True)
        assert plan["count"] == 5
        assert plan["by_status"] == {"running": 3, "backing_off": 1, "submitting": 1}
        assert plan["by_model"] == {"m": 4, "unpriced-model": 1}
        assert (plan["running"], plan["without_estimate"], plan["truncated"]) == (3, 1, False)
        assert float(plan["running_cost_usd"]) == pytest.approx(3 * float(plan["waiting_cost_usd"]), abs=3e-6)
        assert float(plan["waiting_cost_usd"]) > 0
        assert set(plan["sample"]) == {"run0", "run1", "run2", "wait", "other"}
        assert not api.published.landed

    with_api(body)


def test_jobs_are_chosen_by_each_field_and_by_all_together(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(
            submitted("a", model="m", tags=("x",), session_id="s"), submitted("b", model="m", tags=("y",)),
            submitted("c", model="n", tags=("x",)), submitted("d", model="n", at_ms=5_000), rejected("b"),
            *whole_job("e", "resp_9"), submitted("z:a", tenant="z", model="m", tags=("x",), session_id="s"),
        )  # fmt: skip
        for chosen, ids in (
            ({"model": "m"}, {"a", "b"}), ({"tag": "x"}, {"a", "c"}), ({"session_id": "s"}, {"a"}),
            ({"status": ["backing_off"]}, {"b"}), ({"model": "m", "tag": "y"}, {"b"}), ({"since_ms": 4_000}, {"d"}),
            ({"tag": "x", "model": "n"}, {"c"}), ({"model": "none"}, set()),
            ({"everything": True}, {"a", "b", "c", "d"}),
        ):  # fmt: skip
            assert set((await api.ask(**chosen))["sample"]) == ids, chosen
            api.published.landed.clear()
            assert set((await api.ask(**chosen, execute=True, why="w"))["job_ids"]) == ids, chosen
            assert set(api.cancelled()) == ids

    with_api(body)


def test_given_ids_are_cancelled_once_and_what_is_none_is_told(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted("a"), submitted("b"), cancelled("b"), submitted("z:c", tenant="z"))
        ids = ["a", "a", "b", "c", "nosuch"]
        plan = await api.ask(ids=ids)
        assert (plan["count"], plan["sample"]) == (1, ["a"])
        assert (plan["not_open"], plan["not_found"]) == (["b"], ["c", "nosuch"])
        done = await api.ask(ids=ids, execute=True, why="wrong prompt", by="Ann")
        assert done == {"object": "cancel_batch", "count": 1, "job_ids": ["a"]}
        (fact,) = api.published.landed
        assert isinstance(fact, CancelRequested)
        assert (fact.id, fact.tenant, fact.reason) == ("a/cancel", "default", "wrong prompt (by Ann)")
        again = await api.ask(ids=["a"], execute=True, why="wrong prompt", by="Ann")
        assert again["count"] == 1, "the read model has not seen the cancel; a repeat has the same id"
        assert {each.id for each in api.published.landed} == {"a/cancel"}

    with_api(body)


def test_batches_walk_all_jobs_and_a_second_run_finds_what_is_left(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(*(submitted(f"j{number:03}", at_ms=1_000 + number) for number in range(25)))
        seen: list[str] = []
        asked: dict[str, Any] = {"model": "gpt-5", "execute": True, "why": "w", "limit": 10}
        first = await api.ask(**asked)
        await api.take(*(cancelled(job_id) for job_id in first["job_ids"]))  # Broken off here, and run again.
        while True:
            batch = await api.ask(**asked)
            seen += batch["job_ids"]
            if "next_cursor" not in batch:
                break
            asked["cursor"] = batch["next_cursor"]
        assert sorted(first["job_ids"] + seen) == [f"j{number:03}" for number in range(25)]
        assert (await api.ask(ids=[f"j{number:03}" for number in range(25)], execute=True, why="w", limit=7))[
            "next_cursor"
        ]

    with_api(body)


BAD_BODIES: tuple[dict[str, Any], ...] = (
    {}, {"ids": []}, {"everything": False}, {"status": []}, {"model": ""}, {"everything": True, "model": "m"},
    {"ids": ["a"], "model": "m"}, {"model": "m", "execute": True}, {"model": "m", "execute": True, "why": " "},
    {"model": "m", "execute": "yes"}, {"status": ["completed"]}, {"ids": ["x:y"]}, {"ids": ["a"] * (IDS_MAX + 1)},
    {"model": "m", "limit": BATCH_MAX + 1}, {"model": "m", "cursor": "!"}, {"modle": "m"}, {"session_id": "a b"},
    {"execute": True, "why": "w"}, {"model": "a\0b"},
)  # fmt: skip


def test_a_body_that_names_no_jobs_or_too_much_is_refused(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted("a"))
        for bad in BAD_BODIES:
            assert (await api.ask(422, **bad))["code"] == "bad_request", bad
        assert not api.published.landed

    with_api(body)


def test_another_tenants_jobs_need_an_admin(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted("a"), submitted("z:b", tenant="z"))
        assert (await api.ask(403, whose="z", everything=True))["code"] == "scope_missing"
        done = await api.ask(whose="z", everything=True, execute=True, why="w", scopes=ADMIN)
        assert done["job_ids"] == ["b"]
        (fact,) = api.published.landed
        assert isinstance(fact, CancelRequested)
        assert (fact.job_id, fact.tenant) == ("z:b", "z")

    with_api(body)


def test_cancels_that_the_log_does_not_take_are_no_success(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted("a"))
        api.published.away = True
        assert (await api.ask(503, everything=True, execute=True, why="w"))["code"] == "log_unavailable"

    with_api(body)
