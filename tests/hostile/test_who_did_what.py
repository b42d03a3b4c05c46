"""Which key did what, which were refused where, and keys that come to their end."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from backstop.cli.keys import app as keys_command
from backstop.runtime.addresses import parse_networks
from backstop.runtime.http.keys import TenantLimits, load_keys
from backstop.runtime.process import logs
from receiver.access.access_log import REFUSED_PER_S_MAX, RefusedKeys
from receiver.access.addresses import allowed, client_address
from receiver.access.keys import KeyRing
from schemas.jobs import CancelRequested, JobSubmitted
from tests.unit.receiver.ingress import NOW_MS, SUBMIT, Ingress, with_ingress
from tests.unit.receiver.test_sdk_keys import CREATED, Ring, ring

__all__ = ["ring"]


class Lines:
    def __init__(self) -> None:
        self.out = io.StringIO()

    def of(self, event: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.out.getvalue().splitlines()]
        return [line for line in found if line["event"] == event]


@pytest.fixture
def lines() -> Iterator[Lines]:
    found = Lines()
    before = logging.getLogger().handlers[:], logging.getLogger().level
    logs.configure("json", "info", "test", found.out)
    yield found
    logging.getLogger().handlers[:], logging.getLogger().level = before
    structlog.reset_defaults()


def test_facts_and_lines_say_which_key_asked(ring: Ring, lines: Lines) -> None:
    mine = ring.add("acme")

    async def story(ingress: Ingress) -> None:
        assert (await ingress.call("POST", "/v1/jobs", json={**SUBMIT, "job_id": "j"}, headers=mine))[0] == 202
        assert (await ingress.call("POST", "/v1/jobs/j/cancel", headers=mine))[0] == 202
        assert (await ingress.call("DELETE", "/v1/responses/resp_x", headers=mine))[0] == 404
        assert (await ingress.call("POST", "/v1/webhook_endpoints", json={}, headers=mine))[0] == 404
        submitted, cancelled = ingress.publisher.landed
        assert isinstance(submitted, JobSubmitted)
        assert isinstance(cancelled, CancelRequested)
        assert submitted.asked_by == cancelled.asked_by == ring.keys[0].id

    with_ingress(story, keys_file=ring.path)
    told = lines.of("changed")
    assert [(one["action"], one["status"]) for one in told] == [
        ("cancelJob", 202), ("deleteResponse", 404), ("createWebhookEndpoint", 404),
    ]  # fmt: skip
    assert {(one["key_id"], one["tenant"], one["address"]) for one in told} == {(ring.keys[0].id, "acme", "127.0.0.1")}
    assert told[1]["response_id"] == "resp_x"


def test_refused_keys_are_told_with_id_and_address_and_within_bounds(ring: Ring, lines: Lines) -> None:
    good = ring.add("acme")["Authorization"]
    expired = ring.add("acme", expires_at=CREATED)
    wrong = {"Authorization": good[:-3] + "BBB"}

    async def story(ingress: Ingress) -> None:
        for _ in range(30):
            for headers in (expired, wrong, {}, {"Authorization": "Bearer nonsense"}):
                assert (await ingress.call("GET", "/v1/caller", headers=headers))[0] == 401
        first = lines.of("authentication_refused")
        assert {(one["key_id"], one["reason"]) for one in first} == {
            (ring.keys[1].id, "expired"), (ring.keys[0].id, "wrong_secret"), ("", "no_key"),
        }  # fmt: skip
        assert len(first) == 3, "each once a minute"
        assert {one["address"] for one in first} == {"127.0.0.1"}
        for number in range(300):
            unknown = {"Authorization": f"Bearer bsk_{number:012x}_{'a' * 43}"}
            await ingress.call("GET", "/v1/caller", headers=unknown)

    with_ingress(story, keys_file=ring.path)
    seconds: dict[str, int] = {}
    for line in lines.of("authentication_refused"):
        seconds[line["ts"][:19]] = seconds.get(line["ts"][:19], 0) + 1
    assert max(seconds.values()) <= 2 * REFUSED_PER_S_MAX
    assert good.removeprefix("Bearer ") not in lines.out.getvalue()


def test_a_flood_of_one_address_hides_no_refusals_of_another(lines: Lines) -> None:
    told = RefusedKeys()
    for number in range(2_000):
        told.tell(f"{number:012x}", "203.0.113.9", "unknown_key")
        if number % 100 == 99:
            told.tell("000000000001", "198.51.100.7", "wrong_secret")
    assert [one["count"] for one in lines.of("authentication_refused") if one["address"] == "198.51.100.7"] == [1]


def test_refused_tickets_and_missing_scopes_are_told_as_refused_keys_are(ring: Ring, lines: Lines) -> None:
    mine, other = (ring.add("acme", scopes={"read"}) for _ in range(2))

    async def story(ingress: Ingress) -> None:
        body = {"path": "/v1/events"}
        _, made, _ = await ingress.call("POST", "/v1/tickets", json=body, headers=mine)
        for _ in range(3):
            forged = made["ticket"][:-4] + "0000"
            assert (await ingress.call("GET", f"/v1/events?ticket={forged}"))[0] == 401
            assert (await ingress.call("GET", "/v1/events?ticket=nonsense"))[0] == 401
            assert (await ingress.call("DELETE", "/v1/responses/resp_x", headers=other))[0] == 403

    def routes(app: web.Application) -> None:
        async def events(_request: web.Request) -> web.Response:
            return web.Response()

        app.router.add_get("/v1/events", events)

    with_ingress(story, keys_file=ring.path, add_routes=routes)
    told = {(one["key_id"], one["reason"], one["address"]) for one in lines.of("authentication_refused")}
    first, second = (key.id for key in ring.keys)
    assert told == {(first, "ticket", "127.0.0.1"), ("", "ticket", "127.0.0.1"), (second, "scope", "127.0.0.1")}


@pytest.mark.parametrize(
    ("peer", "said", "trusted", "expected"),
    [
        ("203.0.113.9", [], "", "203.0.113.9"),
        ("203.0.113.9", ["10.0.0.1"], "", "203.0.113.9"),
        ("203.0.113.9", ["10.0.0.1"], "10.0.0.0/8", "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.7"], "10.0.0.0/8", "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.7"], "10.0.0.0/8", "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.7, 10.0.0.2"], "10.0.0.0/8", "198.51.100.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.0/8", "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.7:4711"], "10.0.0.0/8", "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "10.0.0.0/8", "2001:db8::1"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "10.0.0.0/8", "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7"], "::ffff:10.0.0.0/104", "198.51.100.7"),
        ("10.0.0.1", ["nonsense"], "10.0.0.0/8", ""),
        ("10.0.0.1", [", ".join(["10.0.0.2"] * 10_000)], "10.0.0.0/8", "10.0.0.2"),
        (None, ["10.0.0.1"], "10.0.0.0/8", ""),
    ],
)
def test_an_address_is_believed_as_far_as_trusted_proxies_reach(
    peer: Any, said: list[str], trusted: str, expected: str
) -> None:
    assert client_address(peer, said, parse_networks([trusted] if trusted else [])) == expected


def test_a_key_works_from_its_addresses_alone_and_so_do_its_tickets(ring: Ring) -> None:
    office = ring.add("acme", addresses=(ip_network("198.51.100.0/24"),))
    here = ring.add("acme", addresses=(ip_network("127.0.0.0/8"),))

    async def story(ingress: Ingress) -> None:
        at_office, elsewhere = {"X-Forwarded-For": "198.51.100.7"}, {"X-Forwarded-For": "198.51.101.7"}
        for headers, expected in (
            (office, 401),
            ({**office, **elsewhere}, 401),
            ({**office, **at_office}, 200),
            (here, 200),
        ):
            assert (await ingress.call("GET", "/v1/caller", headers=headers))[0] == expected
        body = {"path": "/v1/events"}
        _, made, _ = await ingress.call("POST", "/v1/tickets", json=body, headers={**office, **at_office})
        assert (await ingress.call("GET", f"/v1/events?ticket={made['ticket']}", headers=elsewhere))[0] in {401, 404}

    with_ingress(story, keys_file=ring.path, trusted_proxies="127.0.0.1/32")

    async def forged(ingress: Ingress) -> None:
        headers = {**office, "X-Forwarded-For": "198.51.100.7"}
        assert (await ingress.call("GET", "/v1/caller", headers=headers))[0] == 401, "the receiver trusts no proxy here"

    with_ingress(forged, keys_file=ring.path)


@pytest.mark.parametrize(
    ("network", "address", "expected"),
    [
        ("::ffff:10.0.0.0/104", "10.255.0.1", True),
        ("::ffff:10.0.0.0/104", "::ffff:10.0.0.1", True),
        ("::ffff:10.0.0.0/104", "11.0.0.1", False),
        ("::ffff:10.0.0.7/128", "10.0.0.7", True),
        ("::ffff:10.0.0.7/128", "10.0.0.8", False),
        ("::ffff:0:0/96", "192.0.2.1", True),
        ("::/0", "10.0.0.1", False),
        ("::fffe:0:0/95", "10.0.0.1", False),
        ("2001:db8::/32", "10.0.0.1", False),
    ],
)
def test_a_network_of_ipv4_written_as_ipv6_is_that_of_ipv4(network: str, address: str, expected: bool) -> None:
    assert allowed(address, parse_networks([network])) is expected


def test_a_key_is_warned_about_before_its_end_and_not_every_time(ring: Ring, lines: Lines) -> None:
    ring.add("acme", expires_at=CREATED + timedelta(days=13))
    ring.add("acme", expires_at=CREATED + timedelta(days=15))
    ring.add("acme", expires_at=CREATED - timedelta(days=1))
    ring.add("acme")
    now_ms = NOW_MS
    registry = CollectorRegistry()
    keys = KeyRing(ring.path, "127.0.0.1", lambda: now_ms, registry)
    for _ in range(3):
        keys.warn_of_ends()
    assert [line["key_id"] for line in lines.of("key_expires_soon")] == [ring.keys[0].id]
    assert registry.get_sample_value("backstop_api_keys", {"state": "expiring"}) == 1
    now_ms += 2 * 86_400_000
    keys.warn_of_ends()
    assert [line["key_id"] for line in lines.of("key_expires_soon")][1:] == [ring.keys[0].id, ring.keys[1].id]


def test_a_rotated_key_and_its_successor_both_work_until_the_overlap_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, runner = tmp_path / "keys.json", CliRunner()
    monkeypatch.setenv("BACKSTOP_KEYS_FILE", str(path))
    given = ["create", "--tenant", "acme", "--scopes", "read", "--addresses", "10.0.0.0/8,::1/128", "--name", "n"]
    assert runner.invoke(keys_command, given).exit_code == 0
    (old,) = load_keys(path).keys
    assert old.expires_at is not None
    assert (old.expires_at - old.created_at).days == 365, "a key ends by itself"
    done = runner.invoke(keys_command, ["rotate", old.id, "--overlap", "1h"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("bsk_")
    ending, new = load_keys(path).keys
    assert ending.expires_at is not None
    assert ending.expires_at - new.created_at == timedelta(hours=1)
    assert (new.tenant, new.scopes, new.name, new.addresses) == (old.tenant, old.scopes, old.name, old.addresses)
    assert new.id != old.id
    assert new.created_by
    assert ending.rotated_by, "the key names the person that shortened it"
    assert new.rotated_by is None
    assert runner.invoke(keys_command, ["rotate", new.id]).exit_code == 0
    assert [each.rotated_by is None for each in load_keys(path).keys] == [False, False, True]
    assert runner.invoke(keys_command, ["rotate", "ffffffffffff"]).exit_code == 1
    assert runner.invoke(keys_command, ["revoke", old.id]).exit_code == 0
    assert runner.invoke(keys_command, ["rotate", old.id]).exit_code == 1, "a key that has ended has no successor"
    assert load_keys(path).keys[0].revoked_by
    assert runner.invoke(keys_command, ["create", "--tenant", "a", "--addresses", "everywhere"]).exit_code == 2
    assert runner.invoke(keys_command, ["create", "--tenant", "a", "--expires-in", "never"]).exit_code == 0
    assert load_keys(path).keys[-1].expires_at is None


def test_the_access_log_is_off_and_names_no_path_and_no_secret_where_it_is_on(ring: Ring, lines: Lines) -> None:
    mine = ring.add("acme")

    async def story(ingress: Ingress) -> None:
        await ingress.call("GET", "/v1/responses/resp_of_mine?ticket=bst_secret", headers=mine)
        await ingress.call("GET", "/nowhere/secret")

    with_ingress(story, keys_file=ring.path)
    assert lines.of("request") == []
    with_ingress(story, keys_file=ring.path, access_log=True)
    first, second = lines.of("request")
    assert (first["method"], first["route"], first["status"]) == ("GET", "/v1/responses/{response_id}", 404)
    assert (first["tenant"], first["key_id"], first["address"]) == ("acme", ring.keys[0].id, "127.0.0.1")
    assert second["route"] == "unmatched"
    assert "secret" not in lines.out.getvalue()
    assert "resp_of_mine" not in lines.out.getvalue()


def test_a_read_as_another_tenant_is_told_by_its_route_and_names_no_object_of_theirs(ring: Ring, lines: Lines) -> None:
    admin = {**ring.add("ops", {"read", "admin"}), "Backstop-Tenant": "acme"}

    async def story(ingress: Ingress) -> None:
        assert (await ingress.call("GET", "/v1/responses/resp_of_theirs", headers=admin))[0] == 404

    with_ingress(story, keys_file=ring.path)
    (told,) = lines.of("read_for_tenant")
    assert (told["tenant"], told["key_id"], told["route"]) == ("acme", ring.keys[0].id, "/v1/responses/{response_id}")
    assert "resp_of_theirs" not in lines.out.getvalue()


def test_a_tenant_with_a_rate_hears_what_is_left_of_it(ring: Ring) -> None:
    limited, free = ring.add("acme"), ring.add("globex")
    ring.tenants["acme"] = TenantLimits(requests_per_s=0.5, requests_burst=2)
    ring.save()

    async def story(ingress: Ingress) -> None:
        said = [(await ingress.call("GET", "/v1/caller", headers=limited))[2] for _ in range(3)]
        assert [one.status for one in said] == [200, 200, 429]
        assert [one.headers["RateLimit"] for one in said] == [
            '"tenant";r=1;t=2',
            '"tenant";r=0;t=4',
            '"tenant";r=0;t=2',
        ]
        assert {one.headers["RateLimit-Policy"] for one in said} == {'"tenant";q=2;w=4'}
        assert "RateLimit" not in (await ingress.call("GET", "/v1/caller", headers=free))[2].headers

    with_ingress(story, keys_file=ring.path)


def test_a_key_gives_the_priorities_that_it_may_give_alone(ring: Ring) -> None:
    free, limited = ring.add("acme"), ring.add("acme")
    ring.keys[1] = ring.keys[1].model_copy(update={"priorities": frozenset({"bulk"})})
    ring.save()

    async def story(ingress: Ingress) -> None:
        for number, (key, given, taken) in enumerate((
            (limited, "bulk", True), (limited, "interactive", False), (limited, "normal", False),
            (limited, None, False), (free, "interactive", True), (free, None, True),
        )):  # fmt: skip
            before = len(ingress.publisher.landed)
            job = {**SUBMIT, "job_id": f"j{number}", **({} if given is None else {"priority": given})}
            status, document, _ = await ingress.call("POST", "/v1/jobs", json=job, headers=key)
            assert status == (202 if taken else 403), document
            headers = {**key, **({} if given is None else {"Backstop-Priority": given})}
            asked = {"model": "m", "input": str(number), "background": True}
            status, document, _ = await ingress.call("POST", "/v1/responses", json=asked, headers=headers)
            assert status == (200 if taken else 403), document
            assert len(ingress.publisher.landed) - before == (2 if taken else 0)
            if not taken:
                assert "the priority bulk alone" in document["error"]["message"]

    with_ingress(story, keys_file=ring.path)


def test_the_priorities_of_a_key_are_named_at_its_making_and_kept_by_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKSTOP_DATA_DIR", str(tmp_path))
    runner = CliRunner()
    assert runner.invoke(keys_command, ["create", "--tenant", "acme", "--priorities", "normal, bulk"]).exit_code == 0
    (key,) = load_keys(tmp_path / "keys.json").keys
    assert runner.invoke(keys_command, ["rotate", key.id]).exit_code == 0
    assert {each.priorities for each in load_keys(tmp_path / "keys.json").keys} == {frozenset({"normal", "bulk"})}
    refused = runner.invoke(keys_command, ["create", "--tenant", "acme", "--priorities", "urgent"])
    assert refused.exit_code == 2
    assert "--priorities" in refused.output
