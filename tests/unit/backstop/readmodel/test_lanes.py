"""`/v1/lanes` over a real server, on every kind of database: which key may pause what, and what a waiting job says."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from backstop.runtime.settings import RuntimeSettings
from receiver.app import _answer_with_problems
from receiver.lane_watch import LaneWatch
from receiver.limits import Limits
from receiver.reads.lanes import TENANT_PAUSES_MAX, Publishing, add_lane_routes
from receiver.reads.overview import BesideReadModel, add_overview_routes
from receiver.reads.why import add_why_route
from schemas.base import Message
from schemas.jobs import Turn
from schemas.lanes import ALL_MODELS, CreateFailed
from schemas.pauses import PAUSED_CODE, CreatesPaused, CreatesResumed, PauseFact
from streams.policy.prices import read_prices
from streams.price_settings import SHIPPED_PRICES
from tests.support.memory_publisher import MemoryPublisher
from tests.unit.backstop.readmodel.conftest import Bench
from tests.unit.backstop.readmodel.logs import rejected
from tests.unit.backstop.readmodel.logs import submitted as submitted_of_log
from tests.unit.backstop.readmodel.projection import Projection
from tests.unit.backstop.readmodel.serving import RIGHTS, Client, running, served

ACCOUNT = "0a1b2c3d"
ADMIN, OPERATOR = "read,operate,admin", "read,operate"


class Echo(MemoryPublisher):
    """Each record is read back at once."""

    def __init__(self, watch: LaneWatch) -> None:
        super().__init__()
        self._watch = watch

    async def publish(self, messages: Sequence[Message], timeout_s: float | None = None) -> None:
        await super().publish(messages, timeout_s)
        for message in messages:
            assert isinstance(message, PauseFact)
            self._watch.take_pause(message, message.at_ms)


class Api(Client):
    def __init__(self, session: aiohttp.ClientSession, projection: Projection, watch: LaneWatch, log: Echo) -> None:
        super().__init__(session, projection)
        self.watch = watch
        self.published = log

    async def ask(
        self, method: str, path: str, body: Any = None, *, status: int = 200, tenant: str = "default",
        scopes: str = OPERATOR,
    ) -> Any:  # fmt: skip
        headers = {"X-Test-Tenant": tenant, "X-Test-Scopes": scopes}
        async with self.session.request(method, path, headers=headers, json=body) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json(content_type=None)

    async def pause(self, status: int = 200, tenant: str = "default", scopes: str = OPERATOR, **body: Any) -> Any:
        whole = {"by": "Ann", "why": "the key is rotated"} | body
        return await self.ask("POST", "/v1/lanes/pause", whole, status=status, tenant=tenant, scopes=scopes)

    async def resume(self, status: int = 200, tenant: str = "default", scopes: str = OPERATOR, **body: Any) -> Any:
        whole = {"by": "Bob", "why": "done"} | body
        return await self.ask("POST", "/v1/lanes/resume", whole, status=status, tenant=tenant, scopes=scopes)

    async def lanes(self, tenant: str = "default", scopes: str = OPERATOR) -> Any:
        return await self.ask("GET", "/v1/lanes", tenant=tenant, scopes=scopes)


@asynccontextmanager
async def api(bench: Bench) -> AsyncIterator[Api]:
    projection = await Projection(bench.another()).take_over()
    watch, now_ms = LaneWatch(RuntimeSettings(), lambda: 3_000), lambda: 3_000
    watch.pauses_read.set()
    publisher = Echo(watch)
    app = web.Application(middlewares=[_answer_with_problems])
    prices = read_prices(SHIPPED_PRICES)
    add_lane_routes(app, bench.another(), RIGHTS, now_ms, watch, Publishing(publisher, Limits(publish_s=0.2)))
    add_why_route(app, bench.another(), RIGHTS.tenant_of, now_ms, prices, watch=watch)
    add_overview_routes(app, bench.another(), RIGHTS, now_ms, 1_000, BesideReadModel(lanes=watch))
    async with served(app) as session:
        yield Api(session, projection, watch, publisher)


@pytest.fixture
def with_api(run: Any) -> Any:
    return running(run, api)


def submitted(job_id: str = "j", **changes: Any) -> Message:
    return submitted_of_log(job_id, **{"model": "m", **changes})


def held(job_id: str = "j") -> Message:
    return rejected(job_id, cause="held").model_copy(
        update={"code": PAUSED_CODE, "message": "paused by Ann: the key is rotated", "http_status": None}
    )


def test_a_paused_job_says_by_whom_and_why_and_that_it_goes_on(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted(tags=("nightly",)))
        pause = await api.pause(model="m")
        assert pause == {
            "object": "pause", "id": pause["id"], "model": "m", "tenant": "default", "since_ms": 3_000, "by": "Ann",
            "why": "the key is rotated",
        }  # fmt: skip
        said = (await api.ask("GET", "/v1/jobs/j/why"))["sentences"]
        assert said[1].startswith("An operator has paused creates (model m, tenant default) at 00:00:03 UTC")
        assert said[1].endswith("paused by Ann: the key is rotated.")
        await api.take(held())
        said = (await api.ask("GET", "/v1/jobs/j/why"))["sentences"]
        assert said[0].endswith("paused by Ann: the key is rotated.")
        assert said[1].startswith("Attempt 2 begins when that is resumed; the job expires at ")
        (found,) = (await api.ask("GET", "/v1/attention"))["findings"]
        assert found == {
            "code": "creates_paused", "count": 1, "job_ids": ["j"], "because": "paused by Ann: the key is rotated",
        }  # fmt: skip
        assert (await api.resume(model="m"))["resumed_by"] == "Bob"
        said = (await api.ask("GET", "/v1/jobs/j/why"))["sentences"]
        assert said[0].endswith("they are resumed.")
        assert (await api.ask("GET", "/v1/attention"))["findings"] == []
        assert [type(fact) for fact in api.published.landed] == [CreatesPaused, CreatesResumed]

    with_api(body)


def test_a_job_that_waited_for_another_reason_says_both(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted(), rejected())
        await api.pause(everything=True)
        said = (await api.ask("GET", "/v1/jobs/j/why"))["sentences"]
        assert said[0].startswith("An operator has paused creates (tenant default)")
        assert said[1].startswith("Its last attempt ended: rate_limit_exceeded (HTTP 429)")

    with_api(body)


def test_a_job_that_waits_for_its_turn_says_that_it_is_paused(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted(turn=Turn(waits=True)))
        assert (await api.ask("GET", "/v1/jobs/j/why"))["sentences"][0].startswith("The job waits for its turn")
        await api.pause(model="m")
        said = (await api.ask("GET", "/v1/jobs/j/why"))["sentences"]
        assert said[0].endswith("paused by Ann: the key is rotated.")
        assert said[1].startswith("The job begins when that is resumed, and expires at ")
        (found,) = (await api.ask("GET", "/v1/attention"))["findings"]
        assert (found["code"], found["count"]) == ("creates_paused", 1)

    with_api(body)


def test_pausing_twice_and_resuming_twice(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted())
        first = await api.pause(model="m")
        assert await api.pause(model="m") == first, "a repeat"
        problem = await api.pause(409, model="m", by="Cay", why="mine")
        assert problem["code"] == "already_paused"
        assert problem["detail"].startswith("Model m, tenant default are paused by Ann: the key is rotated.")
        await api.resume(pause_id=first["id"])
        for body in ({"pause_id": first["id"]}, {"model": "m"}):
            assert (await api.resume(404, **body))["code"] == "pause_not_found"
        assert len(api.published.landed) == 2

    with_api(body)


def test_a_name_that_no_job_has_is_refused_unless_it_is_meant(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted(tags=("nightly",)), submitted("x:k", tenant="x", model="their-model"))
        for scope in ({"model": "mm"}, {"tag": "daily"}, {"model": "their-model"}, {"model": "m", "tag": "daily"}):
            assert (await api.pause(409, **scope))["code"] == "nothing_to_pause"
        for scope in ({"tenant": "y"}, {"account": ACCOUNT}, {"tenant": "x", "model": "m"}):
            foreign = {"why": "w", **scope}
            problem = await api.ask("POST", "/v1/lanes/pause", foreign, status=409, scopes=ADMIN)
            assert problem["code"] == "nothing_to_pause"
        await api.pause(scopes=ADMIN, model="their-model")
        await api.pause(tag="nightly")
        await api.pause(model="mm", unseen=True)

    with_api(body)


BAD_BODIES: tuple[dict[str, Any], ...] = (
    {}, {"everything": False}, {"everything": True, "model": "m"}, {"model": ""}, {"model": "m", "why": " "},
    {"model": "m", "by": ""}, {"model": "m", "mode": "x"}, {"model": "m" * 129}, {"model": "m\0"},
    {"tag": "\0"}, {"account": "mine"},
    {"tenant": "No Tenant"}, {"everything": "yes"}, {"tag": "t" * 65}, {"model": ["m"]},
)  # fmt: skip


def test_a_body_that_names_nothing_or_too_much_is_refused(with_api: Any) -> None:
    async def story(api: Api) -> None:
        for body in BAD_BODIES:
            assert (await api.pause(422, scopes=ADMIN, **body))["code"] == "bad_request", body
            assert (await api.resume(422, scopes=ADMIN, **body))["code"] == "bad_request", body
        both = {"pause_id": "pause_0123456789abcdef", "model": "m"}
        assert (await api.resume(422, scopes=ADMIN, **both))["code"] == "bad_request"
        assert not api.published.landed

    with_api(story)


def test_another_tenants_creates_are_not_paused_shown_or_resumed(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted(), submitted("x:j", tenant="x"))
        foreign = {"tenant": "x", "why": "w"}
        assert (await api.ask("POST", "/v1/lanes/pause", foreign, status=403))["code"] == "scope_missing"
        mine = await api.pause(everything=True)
        assert mine["tenant"] == "default"
        assert (await api.lanes(tenant="x"))["pauses"] == []
        assert (await api.resume(404, tenant="x", pause_id=mine["id"]))["code"] == "pause_not_found"
        whole = await api.pause(scopes=ADMIN, everything=True, by="Root")
        assert [one["by"] for one in (await api.lanes(tenant="x"))["pauses"]] == ["Root"]
        assert (await api.resume(403, tenant="x", pause_id=whole["id"]))["code"] == "scope_missing"
        await api.resume(scopes=ADMIN, everything=True)
        assert [one["by"] for one in (await api.lanes(scopes=ADMIN))["pauses"]] == ["Ann"]

    with_api(body)


def test_one_tenant_can_not_take_all_pauses(with_api: Any) -> None:
    async def body(api: Api) -> None:
        for number in range(TENANT_PAUSES_MAX):
            await api.pause(model=f"m{number}", unseen=True)
        assert (await api.pause(409, model="one-more", unseen=True))["code"] == "too_many_pauses"
        await api.pause(tenant="x", model="m", unseen=True, scopes=OPERATOR)

    with_api(body)


def test_lanes_with_open_jobs_are_listed_with_how_they_stand(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted(), submitted("k", model="n"), rejected("k"), submitted("x:j", tenant="x", model="o"))
        failed = CreateFailed(
            id="c/f", at_ms=5, account=ACCOUNT, model="o", command_id="c", cause="account", code="invalid_api_key",
            message="Wrong key.",
        )  # fmt: skip
        api.watch.take_lane(failed, 2_000)
        await api.pause(model="n")
        seen = await api.lanes()
        assert [(lane["model"], lane["state"], lane["open_jobs"]) for lane in seen["data"]] == [
            ("m", "open", {"submitting": 1}), ("n", "paused", {"backing_off": 1}),
        ]  # fmt: skip
        assert seen["data"][1]["because"] == "paused by Ann: the key is rotated"
        (theirs,) = (await api.lanes(tenant="x"))["data"]
        assert (theirs["state"], theirs["account"], theirs["because"]) == (
            "held", ACCOUNT, "invalid_api_key: Wrong key.",
        )  # fmt: skip
        assert [lane["model"] for lane in (await api.lanes(scopes=ADMIN))["data"]] == ["m", "n", "o"]
        api.watch.take_lane(failed.model_copy(update={"model": ALL_MODELS}), 2_000)
        of_account, theirs = (await api.lanes(tenant="x"))["data"]
        assert (of_account["model"], of_account["state"]) == ("all models", "held")

    with_api(body)


def test_a_pause_that_the_log_does_not_take_is_no_success(with_api: Any) -> None:
    async def body(api: Api) -> None:
        api.published.away = True
        assert (await api.pause(503, model="m", unseen=True))["code"] == "log_unavailable"
        assert (await api.lanes())["pauses"] == []

    with_api(body)
