"""A stream ends with its key, and one key's streams leave room for others'."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from backstop.readmodel import feed as feeds
from backstop.readmodel.feed import ChangeFeed, StreamLimits, Subscription, TooManyFollowersError
from backstop.readmodel.sqlite import SqliteDatabase
from backstop.runtime.authority import Authority
from backstop.runtime.blobs import FolderBlobs
from backstop.runtime.http.keys import ApiKey
from receiver.access.identity import tenant_of
from receiver.limits import Limits
from receiver.reads.lookups import DatabaseReads, FeedChanges
from receiver.reads.routes import add_routes
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import NOW_MS, Ingress, opened
from tests.unit.receiver.test_sdk_keys import CREATED, Ring, ring

__all__ = ["ring"]

LIMITS = StreamLimits(heartbeat_s=0.2, appear_s=0.1, followers_max=6)
ENDS: dict[str, Callable[[ApiKey], ApiKey | None]] = {
    "revoked": lambda key: key.model_copy(update={"revoked_at": CREATED}),
    "expired": lambda key: key.model_copy(update={"expires_at": CREATED}),
    "scope taken away": lambda key: key.model_copy(update={"scopes": frozenset({"submit"})}),
    "another tenant's": lambda key: key.model_copy(update={"tenant": "globex"}),
    "allowed from elsewhere": lambda key: key.model_copy(update={"addresses": (ip_network("203.0.113.0/24"),)}),
    "gone": lambda _key: None,
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "RECHECK_S", 0.05)


@asynccontextmanager
async def serving(folder: Path, keys_file: Path, limits: Limits | None = None) -> AsyncIterator[Ingress]:
    database = SqliteDatabase(folder / "readmodel.db", lambda: NOW_MS)
    await database.open()
    feed = ChangeFeed(database, CollectorRegistry(), LIMITS)

    def routes(app: web.Application) -> None:
        add_routes(app, database, FolderBlobs(folder / "blobs"), tenant_of, CollectorRegistry(), LIMITS, feed=feed)

    try:
        async with opened(
            folder,
            keys_file=keys_file,
            reads=DatabaseReads(database),
            changes=FeedChanges(feed),
            add_routes=routes,
            limits=limits,
        ) as ingress:
            yield ingress
    finally:
        await database.close()


async def begun(ingress: Ingress, path: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
    answer = await ingress.session.get(f"{ingress.url}{path}", headers=headers)
    assert answer.status == 200
    return answer


async def over(answer: aiohttp.ClientResponse) -> bytes:
    return await asyncio.wait_for(answer.content.read(), 10)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_every_kind_of_stream_ends_with_its_key(
    tmp_path: Path, ring: Ring, end: Callable[[ApiKey], ApiKey | None]
) -> None:
    async def story() -> None:
        mine, other = ring.add("acme"), ring.add("acme")
        async with serving(tmp_path, ring.path) as ingress:
            body = {"request": {"model": "m", "input": "x", "stream": True}, "job_id": "j"}
            assert (await ingress.call("POST", "/v1/jobs", json=body, headers=mine))[0] == 202
            _, made, _ = await ingress.call("POST", "/v1/tickets", json={"path": "/v1/events"}, headers=mine)
            created = await ingress.session.post(
                f"{ingress.url}/v1/responses",
                json={"model": "m", "input": "x", "background": True, "stream": True},
                headers=mine,
            )
            assert created.status == 200
            streams = [
                created,
                await begun(ingress, "/v1/events", mine),
                await begun(ingress, f"/v1/events?ticket={made['ticket']}", {}),
                await begun(ingress, "/v1/jobs/j/stream", mine),
            ]
            kept = await begun(ingress, "/v1/events", other)
            changed = end(ring.keys[0])
            ring.keys[:1] = [] if changed is None else [changed]
            ring.save()
            for stream in streams:
                await over(stream)
            assert not kept.content.at_eof(), "another key's stream goes on"
            kept.close()

    asyncio.run(story())


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("spoken", [False, True], ids=["nothing sent yet", "after bytes against idle proxies"])
def test_a_create_that_waits_ends_with_its_key(
    tmp_path: Path, ring: Ring, end: Callable[[ApiKey], ApiKey | None], *, spoken: bool
) -> None:
    limits = Limits(appear_s=0.1, waiting_quiet_s=0.05 if spoken else 60, waiting_heartbeat_s=0.05)

    async def story() -> None:
        mine, other = ring.add("acme"), ring.add("acme")
        async with serving(tmp_path, ring.path, limits) as ingress:
            asked = {"model": "m", "input": "x"}
            waits = [
                asyncio.create_task(ingress.session.post(f"{ingress.url}/v1/responses", json=asked, headers=headers))
                for headers in (mine, other)
            ]
            await eventually(lambda: len(ingress.publisher.landed) == 2, what="both to be taken")
            if spoken:
                await asyncio.wait_for(waits[0], 10)
            changed = end(ring.keys[0])
            ring.keys[:1] = [] if changed is None else [changed]
            ring.save()
            answer = await asyncio.wait_for(waits[0], 10)
            if spoken:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await over(answer)
            else:
                assert answer.status == 401
                assert b"Send a valid key" in await over(answer)
            assert await ingress.metric("backstop_waiting_creates") == 1.0, "another key's create waits on"
            assert await ingress.metric('backstop_waiting_creates_ended_total{result="not_allowed"}') == 1.0
            waits[1].cancel()
            for ended in await asyncio.gather(*waits, return_exceptions=True):
                if isinstance(ended, aiohttp.ClientResponse):
                    ended.close()  # Its connection would be reported in whatever test runs when it is collected.

    asyncio.run(story())


def owned(tenant: str, key: str) -> Subscription:
    return Subscription(tenant, authority=Authority((tenant, key), lambda: True))


def test_one_key_that_holds_all_streams_makes_room_for_others_and_for_no_more_of_its_own(tmp_path: Path) -> None:
    async def story() -> None:
        database = SqliteDatabase(tmp_path / "readmodel.db", lambda: NOW_MS)
        await database.open()
        feed = ChangeFeed(database, CollectorRegistry(), LIMITS)
        await feed.start()
        held: list[Subscription] = []

        async def hold(follower: Subscription) -> None:
            held.append(follower)
            async with feed.follow(follower):
                while follower.closed is None:
                    await follower.next(60)

        greedy = [asyncio.create_task(hold(owned("greedy", "k1"))) for _ in range(6)]
        await eventually(lambda: len(held) == 6)
        with pytest.raises(TooManyFollowersError, match="its share"):
            await hold(owned("greedy", "k1"))
        held.pop()
        others = [asyncio.create_task(hold(owned(tenant, "k"))) for tenant in ("acme", "acme", "globex", "globex")]
        await eventually(lambda: len(held) == 10)
        await eventually(
            lambda: [one.closed for one in held[:4]] == ["outnumbered"] * 4, what="the longest open to make room"
        )
        assert [one.closed for one in held[4:9]] == [None] * 5
        await feed.stop()
        await asyncio.gather(*greedy, *others, return_exceptions=True)
        await database.close()

    asyncio.run(story())
