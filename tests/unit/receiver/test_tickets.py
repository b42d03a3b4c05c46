"""Tickets, which open a live stream for clients that can't send a key: which are accepted, which refused."""

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from backstop.runtime.process.chance import random_hex
from receiver.access import keys as live_keys
from receiver.access import tickets as module
from receiver.access.identity import caller_of
from receiver.access.keys import KeyRing
from receiver.access.tickets import Tickets
from receiver.ingress.signature import parse_key
from receiver.problems import Refusal
from tests.unit.receiver.ingress import NOW_MS, OTHER_SECRET, SECRET, Ingress, with_ingress
from tests.unit.receiver.test_sdk_keys import Ring

JOB = "/v1/jobs/j1/events"


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ring:
    monkeypatch.setattr(live_keys, "POLL_AGAIN_S", 0.0)
    return Ring(tmp_path / "keys.json")


def streams(app: web.Application) -> None:
    """Stand-ins for stream routes that answer with their caller's tenant."""

    async def whose(request: web.Request) -> web.Response:
        return web.json_response(caller_of(request).tenant)

    jobs = [f"/v1/jobs/{{job_id}}{rest}" for rest in ("", "/events", "/stream")]
    for path in ("/v1/events", "/v1/sessions/{session_id}/events", *jobs):
        app.router.add_get(path, whose)


async def ticket(ingress: Ingress, headers: Any = None, path: str = JOB) -> str:
    status, made, _ = await ingress.call("POST", "/v1/tickets", json={"path": path}, headers=headers)
    assert status == 201, made
    assert made["expires_at_ms"] == ingress.clock[0] + 60_000
    return str(made["ticket"])


async def opens(ingress: Ingress, text: str, path: str = JOB, **options: Any) -> tuple[int, Any]:
    status, said, _ = await ingress.call("GET", path, params={"ticket": text}, **options)
    return status, said


def test_a_ticket_opens_its_stream_once(ring: Ring) -> None:
    acme = ring.add("acme", {"read"})

    async def story(ingress: Ingress) -> None:
        text = await ticket(ingress, acme)
        assert await opens(ingress, text) == (200, "acme")
        assert (await opens(ingress, text))[0] == 401
        assert await ingress.metric('backstop_tickets_total{result="accepted"}') == 1
        assert await ingress.metric('backstop_tickets_total{result="refused"}') == 1

    with_ingress(story, keys_file=ring.path, add_routes=streams)


@pytest.mark.parametrize(
    "path", ["/v1/events", "/v1/jobs/a%3Ab/events", "/v1/jobs/a/stream", "/v1/sessions/chat%201/events"]
)
def test_a_path_is_the_same_however_it_is_written(ring: Ring, path: str) -> None:
    acme = ring.add("acme", {"read"})

    async def story(ingress: Ingress) -> None:
        for asked, used in ((path, path.replace("%3A", ":")), (path.replace("%3A", ":"), path)):
            assert await opens(ingress, await ticket(ingress, acme, asked), used) == (200, "acme")

    with_ingress(story, keys_file=ring.path, add_routes=streams)


def test_a_ticket_opens_nothing_else(ring: Ring) -> None:
    acme = ring.add("acme", {"read"})

    async def story(ingress: Ingress) -> None:
        text = await ticket(ingress, acme)
        for other in ("/v1/events", "/v1/jobs/j2/events", "/v1/sessions/j1/events", "/v1/jobs/j1", "/v1/caller"):
            assert (await opens(ingress, text, other))[0] == 401, other
        assert (await opens(ingress, text, JOB, headers=acme))[0] == 401, "a key beside it: whose stream would it be?"
        assert await opens(ingress, text) == (200, "acme"), "none of it used it up"

    with_ingress(story, keys_file=ring.path, add_routes=streams)


def test_whose_key_made_it_decides_what_is_seen(ring: Ring) -> None:
    acme, globex = ring.add("acme", {"read"}), ring.add("globex", {"read"})

    async def story(ingress: Ingress) -> None:
        mine, theirs = await ticket(ingress, acme), await ticket(ingress, globex)
        forged = theirs.replace("bst_000000000001", "bst_000000000000")
        assert (await opens(ingress, forged))[0] == 401, "another tenant's name on it is another ticket"
        assert await opens(ingress, theirs) == (200, "globex")
        assert await opens(ingress, mine) == (200, "acme")

    with_ingress(story, keys_file=ring.path, add_routes=streams)


def test_a_revoked_keys_tickets_are_void(ring: Ring) -> None:
    acme = ring.add("acme", {"read"})
    ring.add("other", {"read"})

    async def story(ingress: Ingress) -> None:
        text = await ticket(ingress, acme)
        ring.keys.pop(0)
        ring.save()
        assert (await opens(ingress, text))[0] == 401

    with_ingress(story, keys_file=ring.path, add_routes=streams)


def test_a_key_that_may_not_read_gets_none(ring: Ring) -> None:
    submitter = ring.add("acme", {"submit"})

    async def story(ingress: Ingress) -> None:
        status, problem, _ = await ingress.call("POST", "/v1/tickets", json={"path": JOB}, headers=submitter)
        assert (status, problem["code"]) == (403, "scope_missing")
        status, _, _ = await ingress.call("POST", "/v1/tickets", json={"path": JOB})
        assert status == 401

    with_ingress(story, keys_file=ring.path, add_routes=streams)


@pytest.mark.parametrize(
    "path", ["/v1/jobs", "/v1/jobs/a/b/events", "/v1/jobs/j1/events?x=1", "events", "", "/metrics"]
)
def test_tickets_are_for_live_streams(path: str) -> None:
    async def story(ingress: Ingress) -> None:
        status, problem, _ = await ingress.call("POST", "/v1/tickets", json={"path": path})
        assert (status, problem["code"]) == (422, "no_stream")

    with_ingress(story)


def test_without_keys_a_ticket_works_all_the_same_until_there_are_some(ring: Ring) -> None:
    async def story(ingress: Ingress) -> None:
        first, second = await ticket(ingress), await ticket(ingress)
        assert await opens(ingress, first) == (200, "default")
        ring.add("acme")
        assert (await opens(ingress, second))[0] == 401

    with_ingress(story, data_dir=ring.path.parent, add_routes=streams)


@pytest.mark.parametrize(
    "text", ["", "bst_", "bst_dev_1_aa_bb", "bst_dev_" + "9" * 15 + "_" + "a" * 32 + "_" + "b" * 64]
)
def test_nonsense_is_no_ticket(text: str) -> None:
    async def story(ingress: Ingress) -> None:
        assert (await opens(ingress, text))[0] == 401

    with_ingress(story, add_routes=streams)


class Receivers:
    """Receivers that share ticket secrets, keys and a clock."""

    def __init__(self, path: Path) -> None:
        self.now_ms = NOW_MS
        self._path = path

    def another(self, *secrets: str) -> Tickets:
        registry = CollectorRegistry()
        keys = KeyRing(self._path, "127.0.0.1", lambda: self.now_ms, registry, development=True)
        parsed = [parse_key(secret).secret for secret in secrets or (SECRET,)]
        return Tickets(parsed, keys, lambda: self.now_ms, random_hex, registry, lambda: self.now_ms / 1000)


def test_a_ticket_is_over_after_a_minute(ring: Ring) -> None:
    receivers = Receivers(ring.path)
    tickets = receivers.another()
    first, second = (tickets.issue(live_keys.DEVELOPER, JOB).text for _ in range(2))
    receivers.now_ms += 60_000
    assert tickets.redeem(first, JOB) is not None
    receivers.now_ms += 1
    assert tickets.redeem(second, JOB) is None


def test_another_receiver_takes_it_and_each_takes_it_once(ring: Ring) -> None:
    ring.add("acme")
    receivers = Receivers(ring.path)
    one, other = receivers.another(), receivers.another(OTHER_SECRET, SECRET)
    caller = KeyRing(ring.path, "127.0.0.1", lambda: NOW_MS, CollectorRegistry()).live_key("0" * 12)
    assert caller is not None
    text = one.issue(live_keys.Caller("acme", caller.scopes, caller.id), JOB).text
    for receiver in (one, other):
        assert receiver.redeem(text, JOB) is not None, "while secrets are rotated, too"
        assert receiver.redeem(text, JOB) is None
    assert receivers.another(OTHER_SECRET).redeem(text, JOB) is None, "it knows none of the secrets"


def test_a_receiver_that_was_started_again_takes_no_older_ticket(ring: Ring) -> None:
    receivers = Receivers(ring.path)
    text = receivers.another().issue(live_keys.DEVELOPER, JOB).text
    receivers.now_ms += 1_000
    assert receivers.another().redeem(text, JOB) is None, "it can't know whether it was used before"


def test_used_tickets_are_remembered_in_bounds_and_forgotten_in_time(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED_MAX", 4)
    for tenant in ("acme", "globex"):
        ring.add(tenant)
    receivers = Receivers(ring.path)
    tickets = receivers.another()

    def used(number: int) -> bool:
        key = ring.keys[number]
        text = tickets.issue(live_keys.Caller(key.tenant, key.scopes, key.id), JOB).text
        return tickets.redeem(text, JOB) is not None

    assert used(0)
    assert used(0)
    assert used(0)
    with pytest.raises(Refusal, match="too_many_tickets"):
        used(0)
    assert used(1), "what one tenant uses leaves tickets for another"
    receivers.now_ms += 66_000
    assert used(0)
