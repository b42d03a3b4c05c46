"""What is asked of Google Cloud Storage, with what credential, and what of its answers is told."""

import asyncio
import json
import logging
import time

import pytest
from pydantic import ValidationError

from backstop.runtime.blob_stores import open_storage
from backstop.runtime.bucket import YOUNG_MS, BucketBlobs, BucketClaims
from backstop.runtime.errors import BlobStoreError, ConfigurationError
from backstop.runtime.google_tokens import GoogleTokens, service_account
from backstop.runtime.google_web import GoogleWeb
from backstop.runtime.process.clock import make_clock
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import sha256_hex
from tests.unit.backstop.runtime.buckets import PROVIDERS, Clients
from tests.unit.backstop.runtime.gcs_server import PEM, GoogleStandIn, account_key, error, google_server
from tests.unit.backstop.runtime.s3_server import NAME

SECRET_LINE = PEM.splitlines()[1]
TROUBLES = [
    (error(403, "x does not have storage.objects.get access to the Google Cloud Storage object.", "forbidden"), "key"),
    (error(401, "Invalid Credentials", "authError"), "refuses this key"),
    (error(404, "The specified bucket does not exist.", "notFound"), "does not exist"),
    (error(429, "The object exceeded the rate limit", "rateLimitExceeded"), "fewer requests"),
    (error(403, "Rate Limit Exceeded", "userRateLimitExceeded"), "fewer requests"),
    (error(503, "We encountered an internal error. Please try again.", "backendError"), "fewer requests"),
    (error(500, "Backend Error", "backendError"), "answers with an error"),
    ((404, b"404 page not found"), "can't be reached"),
    ((307, b""), "answers with an error"),
    ((200, b"{}"), "answers with an error"),
]


@pytest.fixture
def clients() -> Clients:
    return Clients(PROVIDERS["google"])


@pytest.mark.parametrize(("answer", "says"), TROUBLES)
def test_troubles_of_google_are_told_apart(answer: tuple[int, bytes], says: str, clients: Clients) -> None:
    state = GoogleStandIn(refusals=[answer] * 100)

    async def story(endpoint: str) -> None:
        store = clients(endpoint)
        with pytest.raises(BlobStoreError, match=says):
            await BucketBlobs(store).put(b"x")
        with pytest.raises(BlobStoreError, match=says):
            await store.remove("bodies/a", 1 << 60)
        if answer[0] != 200:
            with pytest.raises(BlobStoreError, match=says):
                await BucketBlobs(store).get("0" * 64)
            assert says in str(store.complaint())
        assert await BucketClaims(store, within_s=30).claim("j", "1" * 64) is None or answer[0] == 200

    with google_server(state) as endpoint:
        clients.run(story(endpoint))


def test_a_request_that_failed_for_a_moment_is_repeated(clients: Clients) -> None:
    state = GoogleStandIn(refusals=[error(503, "We encountered an internal error. Please try again.")])

    async def story(endpoint: str) -> None:
        assert await clients(endpoint).put("bodies/a", b"x")

    with google_server(state) as endpoint:
        clients.run(story(endpoint))
    assert [method for method, _, _ in state.sent] == ["POST", "POST"]


def test_a_create_is_conditional_and_a_put_is_not(clients: Clients) -> None:
    state = GoogleStandIn()

    async def story(endpoint: str) -> None:
        store = clients(endpoint)
        assert await store.put("claims/a", b"x", create=True)
        assert not await store.put("claims/a", b"y", create=True)
        assert bytes(await store.get("claims/a")) == b"x"
        assert await store.put("claims/a", b"\r\n--\r\n")
        assert bytes(await store.get("claims/a")) == b"\r\n--\r\n"

    with google_server(state) as endpoint:
        clients.run(story(endpoint))
    asked = [path.partition("?")[2] for method, path, _ in state.sent if method == "POST"]
    assert asked == ["uploadType=multipart&ifGenerationMatch=0"] * 2 + ["uploadType=multipart"]


def test_what_was_put_again_since_it_was_looked_at_is_not_removed(clients: Clients) -> None:
    state = GoogleStandIn(before_delete=b"x")

    async def story(endpoint: str) -> None:
        store = clients(endpoint)
        await store.put("bodies/a", b"x")
        assert await store.remove("bodies/a", 1 << 60) == "recent"
        assert bytes(await store.get("bodies/a")) == b"x"

    with google_server(state) as endpoint:
        clients.run(story(endpoint))


def test_equal_bodies_and_rival_claims_agree_where_a_name_is_written_once_a_second(clients: Clients) -> None:
    async def story(endpoint: str) -> None:
        left, right = BucketBlobs(clients(endpoint)), BucketBlobs(clients(endpoint))
        stored = await asyncio.gather(*(blobs.put(b"x" * 100) for blobs in (left, right) * 4))
        assert set(stored) == {sha256_hex(b"x" * 100)}
        assert bytes(await right.get(stored[0])) == b"x" * 100
        rivals = [f"{number:064x}" for number in range(6)]
        claims = [BucketClaims(clients(endpoint), within_s=30) for _ in rivals]
        first = await asyncio.gather(*(one.claim("j", sha256) for one, sha256 in zip(claims, rivals, strict=True)))
        assert len(set(first)) == 1
        assert first[0] in rivals

    with google_server(GoogleStandIn(writes_of_a_name_max=1)) as endpoint:
        clients.run(story(endpoint))


def test_a_refused_put_of_an_old_body_is_trouble(clients: Clients) -> None:
    async def story(endpoint: str) -> None:
        await BucketBlobs(clients(endpoint)).put(b"x")
        store = clients(endpoint, now_ms=lambda: time.time_ns() // 1_000_000 + YOUNG_MS + 60_000)
        with pytest.raises(BlobStoreError, match="fewer requests"):
            await BucketBlobs(store).put(b"x")

    with google_server(GoogleStandIn(writes_of_a_name_max=1)) as endpoint:
        clients.run(story(endpoint))


def test_one_token_of_the_accounts_key_serves_until_it_is_refused(clients: Clients) -> None:
    state = GoogleStandIn(asks_for_tokens=True)

    async def story(endpoint: str) -> None:
        store = clients(endpoint, key=account_key(endpoint))
        await asyncio.gather(*(store.put(f"bodies/{number}", b"x") for number in range(8)))
        assert state.tokens == ["token-0"]
        state.tokens.append("only this one is taken now")
        assert bytes(await store.get("bodies/1")) == b"x"
        assert len(state.tokens) == 3

    with google_server(state) as endpoint:
        clients.run(story(endpoint))


def test_without_a_credential_no_token_is_asked_for(clients: Clients) -> None:
    state = GoogleStandIn()

    async def story(endpoint: str) -> None:
        await clients(endpoint).put("bodies/a", b"x")

    with google_server(state) as endpoint:
        clients.run(story(endpoint))
    assert state.tokens == []
    assert all("authorization" not in headers for _, _, headers in state.sent)


def test_the_machines_own_account_is_asked_of_its_metadata_service_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    state = GoogleStandIn()

    async def story(endpoint: str) -> None:
        web = GoogleWeb()
        try:
            assert await GoogleTokens(None, web, make_clock(), endpoint).current() == "token-0"
        finally:
            await web.close()

    with google_server(state) as endpoint:
        asyncio.run(story(endpoint))


def test_a_clock_that_is_wrong_is_told(clients: Clients) -> None:
    async def story(endpoint: str) -> None:
        web = GoogleWeb()
        tokens = GoogleTokens(service_account(account_key(endpoint)), web, lambda: 0)
        try:
            with pytest.raises(Exception, match="reasonable timeframe") as refused:
                await tokens.current()
            assert refused.value.trouble == "clock"  # type: ignore[attr-defined]
        finally:
            await web.close()

    with google_server() as endpoint:
        clients.run(story(endpoint))


def test_no_error_and_no_log_line_holds_the_key_or_a_token(
    clients: Clients, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    state = GoogleStandIn(asks_for_tokens=True, refusals=[error(403, "no", "forbidden")] * 9)
    told: list[str] = []

    async def story(endpoint: str) -> None:
        key = account_key(endpoint)
        store = clients(endpoint, key=key)
        for asking in (store.put("a", b"x"), store.get("a"), store.remove("a", 0)):
            with pytest.raises(BlobStoreError) as refused:
                await asking
            told.append(f"{refused.value!r} {refused.value.__cause__!r}")
        await BucketClaims(store, within_s=30).claim("j", "1" * 64)
        told.append(repr(service_account(key)))

    with caplog.at_level(logging.DEBUG), google_server(state) as endpoint:
        clients.run(story(endpoint))
    said = " ".join([*told, caplog.text, *capfd.readouterr()])
    assert SECRET_LINE not in said
    assert "token-0" not in said
    assert "Bearer" not in said


def test_a_key_that_is_none_is_refused_at_start_and_not_quoted() -> None:
    whole = json.loads(account_key("http://127.0.0.1:1"))
    wrong = [
        "secret text", "[]", "{}", json.dumps({**whole, "private_key": "secret text"}),
        json.dumps({**whole, "type": "authorized_user"}), json.dumps({**whole, "token_uri": "http://example.com/t"}),
        json.dumps({**whole, "token_uri": "file:///etc/passwd"}),
    ]  # fmt: skip
    for given in wrong:
        with pytest.raises(ConfigurationError, match="no key of a service account") as refused:
            service_account(given)
        assert "secret text" not in str(refused.value)
        assert refused.value.__suppress_context__


def test_the_key_comes_from_a_file_as_google_wrote_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = GoogleStandIn(asks_for_tokens=True)

    async def story() -> None:
        storage = open_storage(RuntimeSettings())
        try:
            assert await storage.blobs.get(await storage.blobs.put(b"x")) == b"x"
        finally:
            await storage.close()

    with google_server(state) as endpoint:
        path = tmp_path / "key.json"
        path.write_text(account_key(endpoint))
        monkeypatch.setenv("BACKSTOP_BLOBS", f"gs://{NAME}/p")
        monkeypatch.setenv("BACKSTOP_BLOBS_ENDPOINT", endpoint)
        monkeypatch.setenv("BACKSTOP_BLOBS_SECRET_KEY_FILE", str(path))
        asyncio.run(story())
    assert state.tokens == ["token-0"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "needs an account"),
        ({"blobs_key_id": "another"}, "or unset"),
        ({"blobs_key_id": "metadata", "blobs_secret_key": "x"}, "two accounts"),
        ({"blobs": "s3://with_line"}, "only a bucket of Google"),
    ],
)
def test_settings_of_google_that_contradict_each_other_are_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RuntimeSettings(**{"blobs": "gs://with_line/p", **given})  # type: ignore[arg-type]
