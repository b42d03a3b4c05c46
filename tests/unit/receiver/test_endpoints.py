"""The routes of webhook endpoints, by plain HTTP and through OpenAI's SDK."""

import base64
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from backstop.outgoing.deliveries import planned
from backstop.outgoing.endpoints import EndpointBook
from backstop.runtime.errors import BrokerUnavailableError, ConfigurationError
from backstop.runtime.http.keys import ApiKey, KeysFile, Scope, make_token, save_keys
from schemas.deliveries import DeliveryAsked, ResendAsked
from schemas.webhook_endpoints import EndpointMessage, EndpointSaved, EndpointSwitched
from tests.support.memory_publisher import MemoryPublisher
from tests.unit.backstop.outgoing.facts import result
from tests.unit.receiver.ingress import NOW_MS, Ingress, settings, with_ingress
from tests.unit.receiver.reads import MemoryReads

KEY = "k" * 32
URL = "https://hooks.example.com/x"
PATH = "/v1/webhook_endpoints"


class MemoryEndpoints:
    """The follower of the topic, over a log in memory."""

    def __init__(self, publisher: MemoryPublisher) -> None:
        self._publisher = publisher
        self.book = EndpointBook()

    async def catch_up(self) -> None:
        if self._publisher.away:
            raise BrokerUnavailableError("the broker is away")
        self.book = EndpointBook()
        for fact in self._publisher.on("webhook-endpoints"):
            assert isinstance(fact, EndpointMessage)
            self.book.take(fact)


def with_endpoints(story: Callable[[Ingress], Awaitable[None]], **options: Any) -> None:
    with_ingress(story, **{"endpoints": MemoryEndpoints, "outgoing_keys": KEY, **options})


async def registered(ingress: Ingress, **body: Any) -> dict[str, Any]:
    status, document, _ = await ingress.call("POST", PATH, json={"url": URL, **body})
    assert status == 200, document
    assert isinstance(document, dict)
    return document


def test_a_registered_endpoint_is_a_fact_and_its_secret_is_shown_once() -> None:
    async def story(ingress: Ingress) -> None:
        made = await registered(ingress, name="mine", event_types=["response.failed", "response.completed"])
        (fact,) = ingress.publisher.on("webhook-endpoints")
        assert isinstance(fact, EndpointSaved)
        assert (fact.endpoint_id, fact.tenant, fact.url, fact.name) == (made["id"], "default", URL, "mine")
        assert fact.event_types == ("response.completed", "response.failed")
        assert (made["object"], made["created_at"], made["enabled"]) == ("webhook_endpoint", NOW_MS // 1000, True)
        secret = made.pop("signing_secret")
        assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
        assert secret not in fact.model_dump_json()
        assert made["signing_secret_hint"] == f"whsec_…{secret[-4:]}"
        assert (await ingress.call("GET", f"{PATH}/{made['id']}"))[1] == made
        listed = (await ingress.call("GET", PATH))[1]
        assert (listed["data"], listed["first_id"], listed["has_more"]) == ([made], made["id"], False)

    with_endpoints(story)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"url": "http://hooks.example.com/"}, "#/url"), ({"url": "https://127.0.0.1/"}, "#/url"),
        ({"url": "https://u:p@hooks.example.com/"}, "#/url"), ({"url": "https://localhost./"}, "#/url"), ({}, "#/url"),
        ({"url": URL, "event_types": ["batch.completed"]}, "#/event_types/0"),
        ({"url": URL, "event_types": []}, "#/event_types"),
        ({"url": URL, "event_types": None}, "#/event_types"), ({"url": URL, "event_types": 7}, "#/event_types"),
        ({"url": URL, "event_types": "response.failed"}, "#/event_types"),
        ({"url": URL, "secret": "x"}, "#/secret"), ({"url": URL, "name": "x" * 101}, "#/name"), ({"url": 1}, "#/url"),
    ],
)  # fmt: skip
def test_a_body_that_is_not_as_it_must_be_is_refused_with_its_place(body: dict[str, Any], pointer: str) -> None:
    async def story(ingress: Ingress) -> None:
        status, document, _ = await ingress.call("POST", PATH, json=body)
        assert (status, document["errors"][0]["pointer"]) == (422, pointer)
        assert ingress.publisher.landed == []

    with_endpoints(story)


@pytest.mark.parametrize(
    ("rest", "body", "pointer"),
    [
        ("", {"enabled": 0}, "#/enabled"), ("", {"enabled": "true"}, "#/enabled"),
        ("/rotate_secret", {"keep_old_secret_active_for_24_hours": 1}, "#/keep_old_secret_active_for_24_hours"),
        ("/resend", {"since_ms": "5"}, "#/since_ms"), ("/resend", {"since_ms": True}, "#/since_ms"),
        ("/resend", {}, "#"), ("/resend", {"since_ms": 5, "job_id": "j"}, "#"),
    ],
)  # fmt: skip
def test_numbers_and_truths_are_not_guessed_from_one_another(rest: str, body: dict[str, Any], pointer: str) -> None:
    async def story(ingress: Ingress) -> None:
        made = await registered(ingress, name="mine")
        status, document, _ = await ingress.call("POST", f"{PATH}/{made['id']}{rest}", json=body)
        assert (status, document["errors"][0]["pointer"]) == (422, pointer)

    with_endpoints(story)


def test_a_change_keeps_what_it_does_not_name_and_says_nothing_when_nothing_changes() -> None:
    async def story(ingress: Ingress) -> None:
        made = await registered(ingress, name="mine")
        ingress.clock[0] += 5_000
        one = f"{PATH}/{made['id']}"
        _, changed, _ = await ingress.call("POST", one, json={"url": "https://b.example.com/"})
        assert (changed["url"], changed["name"], changed["event_types"]) == (
            "https://b.example.com/", "mine", made["event_types"],
        )  # fmt: skip
        assert changed["updated_at"] == made["updated_at"] + 5
        assert changed["signing_secret_hint"] == made["signing_secret_hint"]
        before = len(ingress.publisher.landed)
        assert (await ingress.call("POST", one, json={"name": "mine", "enabled": True}))[1] == changed
        assert len(ingress.publisher.landed) == before
        assert (await ingress.call("POST", one, json={"url": "https://10.0.0.1/"}))[0] == 422

    with_endpoints(story)


def test_a_disabled_endpoint_is_sent_nothing_and_can_be_enabled_again() -> None:
    async def story(ingress: Ingress) -> None:
        one = f"{PATH}/{(await registered(ingress))['id']}"
        _, off, _ = await ingress.call("POST", one, json={"enabled": False})
        assert (off["enabled"], off["disabled_because"]) == (False, "disabled by hand")
        assert (await ingress.call("GET", one))[1] == off
        for what, body in (("test", {}), ("resend", {"since_ms": 1})):
            status, problem, _ = await ingress.call("POST", f"{one}/{what}", json=body)
            assert (status, problem["code"]) == (409, "endpoint_disabled")
        _, on, _ = await ingress.call("POST", one, json={"enabled": True})
        assert (on["enabled"], on["disabled_because"]) == (True, None)
        switches = [fact.enabled for fact in ingress.publisher.landed if isinstance(fact, EndpointSwitched)]
        assert switches == [False, True]

    with_endpoints(story)


def test_a_rotation_gives_another_secret_and_keeps_the_old_one_where_asked() -> None:
    async def story(ingress: Ingress) -> None:
        made = await registered(ingress)
        one = f"{PATH}/{made['id']}"
        _, kept, _ = await ingress.call(
            "POST", f"{one}/rotate_secret", json={"keep_old_secret_active_for_24_hours": True}
        )
        _, dropped, _ = await ingress.call("POST", f"{one}/rotate_secret")
        assert len({made["signing_secret"], kept["signing_secret"], dropped["signing_secret"]}) == 3
        first, second, third = (fact.secrets for fact in ingress.publisher.landed if isinstance(fact, EndpointSaved))
        assert [ref.number for ref in second] == [2, 1]
        assert second[1] == first[0].model_copy(update={"until_ms": NOW_MS + 24 * 3_600_000})
        assert [ref.number for ref in third] == [3]

    with_endpoints(story)


def test_a_removed_endpoint_is_gone_from_every_call() -> None:
    async def story(ingress: Ingress) -> None:
        made = await registered(ingress)
        one = f"{PATH}/{made['id']}"
        assert (await ingress.call("DELETE", one))[1] == {
            "id": made["id"], "object": "webhook_endpoint.deleted", "deleted": True,
        }  # fmt: skip
        assert (await ingress.call("GET", PATH))[1]["data"] == []
        calls = [
            ("GET", ""),
            ("DELETE", ""),
            ("POST", ""),
            ("POST", "/rotate_secret"),
            ("POST", "/test"),
            ("POST", "/resend"),
        ]
        for method, rest in calls:
            body = {"json": {"since_ms": 1} if rest == "/resend" else {}} if method == "POST" else {}
            status, problem, _ = await ingress.call(method, f"{one}{rest}", **body)
            assert (status, problem["code"]) == (404, "endpoint_not_found"), (method, rest)

    with_endpoints(story)


def test_a_tenant_has_so_many_endpoints_at_most() -> None:
    async def story(ingress: Ingress) -> None:
        for _ in range(2):
            await registered(ingress)
        status, problem, _ = await ingress.call("POST", PATH, json={"url": URL})
        assert (status, problem["code"]) == (409, "too_many_endpoints")

    with_endpoints(story, outgoing_endpoints_max=2)


def test_an_ended_job_is_sent_again_under_its_first_id() -> None:
    reads, ended = MemoryReads(), result("resp_1", tenant="default")
    reads.add("default", "resp_1", status="completed", result=ended)
    reads.add("default", "open", status="running")

    async def story(ingress: Ingress) -> None:
        made = await registered(ingress)
        again = f"{PATH}/{made['id']}/resend"
        status, answer, _ = await ingress.call("POST", again, json={"job_id": "resp_1"})
        (fact,) = ingress.publisher.on("deliveries")
        assert isinstance(fact, DeliveryAsked)
        assert (status, answer["delivery_id"]) == (202, fact.delivery_id)
        assert (fact.delivery_id, fact.asked_at_ms) == (planned(ended, made["id"], 1).delivery_id, NOW_MS)
        for job_id, refused in (("open", (409, "job_open")), ("nothing", (404, "job_not_found"))):
            status, problem, _ = await ingress.call("POST", again, json={"job_id": job_id})
            assert (status, problem["code"]) == refused
        reads.away = True
        status, problem, _ = await ingress.call("POST", again, json={"job_id": "resp_1"})
        assert (status, problem["code"]) == (503, "reads_unavailable")

    with_endpoints(story, reads=reads)


def test_a_resend_since_a_time_is_one_record_for_the_sender() -> None:
    async def story(ingress: Ingress) -> None:
        made = await registered(ingress)
        again = f"{PATH}/{made['id']}/resend"
        status, answer, _ = await ingress.call("POST", again, json={"since_ms": NOW_MS - 60_000})
        (fact,) = ingress.publisher.on("deliveries")
        assert isinstance(fact, ResendAsked)
        assert (status, answer["resend_id"]) == (202, fact.id)
        assert (fact.endpoint_id, fact.since_ms, fact.until_ms) == (made["id"], NOW_MS - 60_000, NOW_MS)
        for body in ({}, {"job_id": "a", "since_ms": 1}):
            assert (await ingress.call("POST", again, json=body))[0] == 422

    with_endpoints(story)


def test_a_test_event_is_marked_as_one() -> None:
    async def story(ingress: Ingress) -> None:
        made = await registered(ingress)
        status, answer, _ = await ingress.call(
            "POST", f"{PATH}/{made['id']}/test", json={"event_type": "response.failed"}
        )
        (fact,) = ingress.publisher.on("deliveries")
        assert isinstance(fact, DeliveryAsked)
        assert (status, answer["delivery_id"], fact.delivery.test) == (202, fact.delivery_id, True)
        assert (fact.delivery.event_type, fact.delivery.response_id[:10]) == ("response.failed", "resp_test_")

    with_endpoints(story)


def test_without_a_broker_nothing_is_promised() -> None:
    async def story(ingress: Ingress) -> None:
        made = await registered(ingress)
        ingress.publisher.away = True
        for method, path in (("POST", PATH), ("GET", PATH), ("DELETE", f"{PATH}/{made['id']}")):
            body = {"json": {"url": URL}} if method == "POST" else {}
            status, problem, _ = await ingress.call(method, path, **body)
            assert (status, problem["code"]) == (503, "log_unavailable")

    with_endpoints(story)


def test_while_webhooks_are_off_every_route_is_404() -> None:
    async def story(ingress: Ingress) -> None:
        for method, path in (("POST", PATH), ("GET", PATH), ("DELETE", f"{PATH}/we_1"), ("POST", f"{PATH}/we_1/test")):
            status, problem, _ = await ingress.call(
                method, path, **({"json": {"url": URL}} if method == "POST" else {})
            )
            assert (status, problem["code"]) == (404, "webhooks_off")

    with_ingress(story)


def test_an_endpoint_on_this_machine_needs_the_setting() -> None:
    async def story(ingress: Ingress) -> None:
        await registered(ingress, url="http://127.0.0.1:9000/hook")

    with_endpoints(story, outgoing_loopback=True, kafka_bootstrap_servers="127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="BACKSTOP_OUTGOING_LOOPBACK"):
        with_endpoints(story, outgoing_loopback=True, kafka_bootstrap_servers="kafka:9092", clear_text=True)


def test_openais_sdk_manages_endpoints_here() -> None:
    async def story(ingress: Ingress) -> None:
        async with AsyncOpenAI(base_url=f"{ingress.url}/v1", api_key="any", max_retries=0) as client:
            made = await client.webhooks.create(name="mine", url=URL, event_types=["response.completed"])
            assert made.signing_secret.startswith("whsec_")
            assert (await client.webhooks.retrieve(made.id)).url == URL
            assert [one.id async for one in client.webhooks.list()] == [made.id]
            changed = await client.webhooks.update(made.id, name="yours", url=URL, event_types=["response.failed"])
            assert (changed.name, changed.event_types) == ("yours", ["response.failed"])
            rotated = await client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
            assert rotated.signing_secret not in {"", made.signing_secret}
            assert (await client.webhooks.delete(made.id)).deleted
            with pytest.raises(openai.NotFoundError):
                await client.webhooks.retrieve(made.id)
            with pytest.raises(openai.BadRequestError, match="https://"):
                await client.webhooks.create(name="x", url="http://a.example/", event_types=["response.failed"])

    with_endpoints(story)


def test_a_tenants_endpoints_are_its_own_and_changing_them_needs_the_scope(tmp_path: Path) -> None:
    keys, headers = [], {}
    callers: list[tuple[str, str, set[Scope]]] = [
        ("acme", "acme", {"operate", "read"}), ("globex", "globex", {"operate", "read"}),
        ("reader", "acme", {"read", "submit"}),
    ]  # fmt: skip
    for number, (name, tenant, scopes) in enumerate(callers):
        token, sha256 = make_token(f"{number:012x}", bytes([number]) * 32)
        headers[name] = {"Authorization": f"Bearer {token}"}
        at = datetime.fromtimestamp(0, UTC)
        keys.append(ApiKey(id=f"{number:012x}", tenant=tenant, scopes=frozenset(scopes), sha256=sha256, created_at=at))
    save_keys(tmp_path / "keys.json", KeysFile(keys=tuple(keys)))

    async def story(ingress: Ingress) -> None:
        _, made, _ = await ingress.call("POST", PATH, json={"url": URL}, headers=headers["acme"])
        one = f"{PATH}/{made['id']}"
        assert (await ingress.call("GET", PATH, headers=headers["globex"]))[1]["data"] == []
        for method, rest, body in (
            ("GET", "", None), ("DELETE", "", None), ("POST", "", {"enabled": False}), ("POST", "/rotate_secret", {}),
            ("POST", "/resend", {"since_ms": 1}), ("POST", "/test", {}),
        ):  # fmt: skip
            options = {} if body is None else {"json": body}
            assert (await ingress.call(method, one + rest, headers=headers["globex"], **options))[0] == 404
            allowed = (await ingress.call(method, one + rest, headers=headers["reader"], **options))[0]
            assert allowed == (200 if method == "GET" else 403), (method, rest)
        assert [one["id"] for one in (await ingress.call("GET", PATH, headers=headers["reader"]))[1]["data"]] == [
            made["id"]
        ]

    with_endpoints(story, keys_file=tmp_path / "keys.json")


def test_a_secret_is_not_shown_by_the_settings() -> None:
    made = settings(outgoing_keys=f"{KEY},{'n' * 32}")
    assert [key.get_secret_value() for key in made.outgoing_keys] == [KEY, "n" * 32]
    assert KEY not in repr(made)
    assert dataclasses.is_dataclass(made.egress_rules())
