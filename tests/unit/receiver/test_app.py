import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from backstop.runtime.errors import BrokerUnavailableError, ConfigurationError
from receiver.app import HEALTH, _answer_with_problems, build_app
from receiver.health import REMEMBER_FAILURE_S, WatchedPublisher
from receiver.limits import Limits
from receiver.lookups import KnownJob
from receiver.settings import ReceiverSettings, check_relations
from tests.support.memory_publisher import MemoryPublisher
from tests.unit.backstop.readmodel.serving import served
from tests.unit.receiver.ingress import OTHER_SECRET, SECRET, Ingress, raw_exchange, settings, with_ingress
from tests.unit.receiver.reads import MemoryChanges, MemoryReads


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", 404),
        ("POST", "/nothing", 404),
        ("GET", "/v1/jobs", 405),
        ("DELETE", "/v1/jobs", 405),
        ("GET", "/v1/jobs/x/cancel", 405),
        ("POST", "/livez", 405),
    ],
)
def test_unknown_routes_and_methods_are_problems(method: str, path: str, expected: int) -> None:
    async def story(ingress: Ingress) -> None:
        status, document, response = await ingress.call(method, path)
        assert (status, document["status"]) == (expected, expected)
        assert response.content_type == "application/problem+json"
        assert document["type"].startswith("urn:backstop:problem:")
        assert "aiohttp" not in response.headers["Server"]

    with_ingress(story)


def test_an_expectation_is_met_or_refused() -> None:
    async def story(ingress: Ingress) -> None:
        body = {"request": {"model": "m"}}
        assert (await ingress.call("POST", "/v1/jobs", json=body, expect100=True))[0] == 202
        assert (await ingress.call("POST", "/v1/jobs", json=body, headers={"Expect": "a-pony"}))[0] == 417
        old = b"POST /v1/jobs HTTP/1.0\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"
        answered = await raw_exchange(ingress.port, old)
        assert answered.startswith(b"HTTP/1.0 403"), "a client of HTTP/1.0 knows no interim answer"

    with_ingress(story)


def test_numbers_in_headers_have_ascii_digits() -> None:
    async def story(ingress: Ingress) -> None:
        body = {"model": "m", "input": "x", "background": True}
        for number, expected in (("3000", 200), ("\u0663\u0660\u0660\u0660", 400), ("\u00b2\u00b2\u00b2\u00b2", 400)):
            headers = {"Backstop-Timeout-Ms": number}
            assert (await ingress.call("POST", "/v1/responses", json=body, headers=headers))[0] == expected, number

    with_ingress(story, reads=MemoryReads(), changes=MemoryChanges())


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz", "/metrics", "/version"])
def test_health_is_shown(path: str) -> None:
    async def story(ingress: Ingress) -> None:
        assert (await ingress.call("GET", path))[0] == 200

    with_ingress(story)


def test_by_default_the_public_port_has_no_metrics() -> None:
    async def story(ingress: Ingress) -> None:
        assert (await ingress.call("GET", "/metrics"))[0] == 404
        assert (await ingress.call("GET", "/readyz"))[0] == 200

    with_ingress(story, metrics_public=False)


def test_the_admin_port_is_not_the_public_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="BACKSTOP_ADMIN_PORT must differ from BACKSTOP_PORT"):
        check_relations(settings(data_dir=tmp_path, port=8080, admin_port=8080))


@pytest.mark.parametrize(("days", "fits"), [(0, True), (9, False), (10, True)])
def test_a_blob_is_kept_for_longer_than_a_job_may_run(tmp_path: Path, days: int, fits: bool) -> None:
    changed = settings(data_dir=tmp_path, blob_keep_days=days)
    if fits:
        check_relations(changed)
    else:
        with pytest.raises(ConfigurationError, match="BACKSTOP_BLOB_KEEP_DAYS"):
            check_relations(changed)


def test_the_document_of_the_api_needs_no_key_and_tells_each_route() -> None:
    async def story(ingress: Ingress) -> None:
        status, document, _ = await ingress.call("GET", "/openapi.json")
        assert (status, document["openapi"]) == (200, "3.1.0")
        submit = document["paths"]["/v1/jobs"]["post"]
        assert (submit["operationId"], submit["security"]) == ("submitJob", [{"key": ["submit"]}])
        assert document["paths"]["/webhooks/openai"]["post"]["security"] == []

    with_ingress(story)


def test_not_ready_while_the_log_does_not_acknowledge() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.publisher.away = True
        await ingress.webhook()
        status, document, _ = await ingress.call("GET", "/readyz")
        assert status == 503
        assert "did not acknowledge" in document["reasons"]["log"]
        assert (await ingress.call("GET", "/livez"))[0] == 200
        ingress.publisher.away = False
        await ingress.webhook()
        assert (await ingress.call("GET", "/readyz"))[0] == 200

    with_ingress(story)


def test_a_failure_of_ours_is_a_500_that_shows_and_logs_nothing_of_the_request() -> None:
    async def broken(job_id: str) -> KnownJob | None:
        raise RuntimeError("canary-prompt")

    class Broken:
        async def put(self, data: bytes | memoryview) -> str:
            raise ValueError(f"cannot store {data!r}")

        async def get(self, sha256: str) -> bytes:
            raise AssertionError

    async def story(ingress: Ingress) -> None:
        with structlog.testing.capture_logs() as logs:
            status, document, _ = await ingress.submit({"request": {"model": "m", "input": "canary-prompt" * 9_000}})
        assert (status, document["code"]) == (500, "internal")
        assert "canary-prompt" not in repr(document)
        (failure,) = [line for line in logs if line["event"] == "request_failed"]
        assert failure["error_type"] == "ValueError"
        assert any("submissions.py" in frame for frame in failure["where"])
        assert "canary-prompt" not in repr(logs)

    with_ingress(story, blobs=Broken(), find_job=broken)


@pytest.mark.parametrize(("leaves", "events"), [(True, ["client_left"]), (False, ["request_failed"])])
def test_a_browser_that_leaves_in_the_middle_is_no_failure(*, leaves: bool, events: list[str]) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if leaves and request.transport is not None:
            request.transport.abort()
            await asyncio.sleep(0)
        raise ConnectionResetError("Cannot write to closing transport")

    async def story() -> list[str]:
        done = asyncio.Event()

        @web.middleware
        async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                return await handler(request)
            finally:
                done.set()

        app = web.Application(middlewares=[outermost, _answer_with_problems])
        app.router.add_post("/", answer)
        structlog.reset_defaults()  # Else a level that another test has set would hide what is of the level debug.
        with structlog.testing.capture_logs() as logs:
            async with served(app) as session:
                with suppress(aiohttp.ServerDisconnectedError):
                    assert (await session.post("/")).status == 500
                await done.wait()
        return [line["event"] for line in logs]

    assert asyncio.run(story()) == events


def test_an_old_failure_lets_traffic_try_again() -> None:
    clock_s = [100.0]
    away = MemoryPublisher()
    away.away = True
    watched = WatchedPublisher(away, lambda: clock_s[0])
    with pytest.raises(BrokerUnavailableError):
        asyncio.run(watched.publish([]))
    assert watched.complaint() is not None
    clock_s[0] += REMEMBER_FAILURE_S + 1
    assert watched.complaint() is None


def test_conditions_of_readiness_can_be_added() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.app[HEALTH].expect("broker")
        assert (await ingress.call("GET", "/readyz"))[0] == 503
        ingress.app[HEALTH].met("broker")
        assert (await ingress.call("GET", "/readyz"))[0] == 200

    with_ingress(story)


def test_requests_are_measured_by_route_and_never_by_what_a_caller_chose() -> None:
    async def story(ingress: Ingress) -> None:
        await ingress.call("POST", "/v1/jobs/one/cancel")
        await ingress.call("POST", "/v1/jobs/two/cancel")
        await ingress.call("PURGE", "/tea-1")
        name = "backstop_http_request_duration_seconds_count"
        cancels = f'{name}{{method="POST",route="/v1/jobs/{{job_id}}/cancel",status_class="2xx"}}'
        assert await ingress.metric(cancels) == 2.0
        assert await ingress.metric(f'{name}{{method="other",route="unmatched",status_class="4xx"}}') == 1.0

    with_ingress(story)


def build(**changed: Any) -> None:
    class NoBlobs:
        async def put(self, data: bytes | memoryview) -> str:
            raise AssertionError

        async def get(self, sha256: str) -> bytes:
            raise AssertionError

        async def has(self, mark: bytes) -> bool:
            raise AssertionError

    build_app(settings(**changed), MemoryPublisher(), NoBlobs(), lambda: 0, lambda _bits: "00")


def test_the_settings_of_tests_are_good() -> None:
    build()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"webhook_secrets": "whsec_AAAA"}, "BACKSTOP_WEBHOOK_SECRETS"),
        ({"unclaimed_forget_after_ms": 72 * 3_600_000}, "BACKSTOP_UNCLAIMED_FORGET_AFTER_MS"),
        ({"submission": {"backoff_base_ms": 60_001}}, "BACKSTOP_SUBMISSION_BACKOFF_BASE_MS"),
        ({"clock_offset_ms": 1}, "BACKSTOP_CLOCK_OFFSET_MS"),
    ],
)
def test_what_can_not_hold_keeps_the_process_from_starting(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        build(**changed)


def test_without_a_webhook_secret_webhooks_are_off_and_the_process_starts() -> None:
    build(webhook_secrets=())
    assert ReceiverSettings(webhook_secrets=()).webhook_keys() == ()


@pytest.mark.parametrize("changed", [{"headers_s": 80}, {"publish_s": 10}, {"submit_depth_max": 254}])
def test_limits_that_contradict_each_other_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="limits: "):
        Limits(**changed)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKSTOP_WEBHOOK_SECRETS", f" {SECRET}, {OTHER_SECRET},")
    monkeypatch.setenv("BACKSTOP_SUBMISSION_TIMEOUT_MS", "700000")
    monkeypatch.setenv("BACKSTOP_SUBMISSION_BACKOFF_BASE_MS", "5")
    monkeypatch.setenv("BACKSTOP_PORT", "0")
    found = ReceiverSettings()
    assert [secret.get_secret_value() for secret in found.webhook_secrets] == [SECRET, OTHER_SECRET]
    assert (found.submission.timeout_ms, found.submission.backoff_base_ms, found.submission.retries_max) == (
        700_000,
        5,
        2,
    )
    assert found.port == 0
    assert SECRET not in repr(found)
    assert SECRET not in found.model_dump_json()


def test_openais_own_name_for_the_secret_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_WEBHOOK_SECRET", SECRET)
    assert len(ReceiverSettings().webhook_keys()) == 1
