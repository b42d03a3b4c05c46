"""What is sent to a bucket, whatever the environment says for other programs, and what of its answers is told."""

import asyncio
import time

import pytest

from backstop.runtime.bucket import YOUNG_MS, BucketBlobs, BucketClaims
from backstop.runtime.errors import BlobStoreError
from schemas.codec import sha256_hex
from tests.unit.backstop.runtime.s3_server import KEY_ID, NAME, Answers, answering, bucket, s3_server

OF_OTHER_PROGRAMS = {
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
    "AWS_ACCESS_KEY_ID": "another",
    "AWS_REGION": "elsewhere-1",
    "AWS_SKIP_SIGNATURE": "true",
    "AWS_CONDITIONAL_PUT": "disabled",
    "AWS_DISABLE_BULK_DELETE": "false",
}


def test_settings_of_the_bucket_stand_above_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OF_OTHER_PROGRAMS.items():
        monkeypatch.setenv(name, value)
    answers = Answers(200, "none")

    async def story(endpoint: str) -> None:
        store = bucket(endpoint, prefix="p")
        await store.put("bodies/a", b"x")
        await store.put("claims/a", b"x", create=True)
        assert await store.remove("bodies/a", 1 << 60) == "removed"

    with answering(answers) as endpoint:
        asyncio.run(story(endpoint))
    body, claim = f"/{NAME}/p/bodies/a", f"/{NAME}/p/claims/a"
    # Some stores know no removal of many objects by one POST, and it may fail with 200.
    wanted = [("PUT", body), ("PUT", claim), ("GET", body), ("DELETE", body)]
    assert [(method, path) for method, path, _ in answers.sent] == wanted
    for _, path, headers in answers.sent:
        key_id, _, region, *_ = headers["authorization"].partition("Credential=")[2].split("/")
        assert (key_id, region) == (KEY_ID, "us-east-1")
        assert headers.get("if-none-match") == ("*" if path == claim else None)


def test_an_error_tells_the_words_of_the_store() -> None:
    async def story(endpoint: str) -> None:
        with pytest.raises(BlobStoreError, match=r"put: .*; XAmzContentSHA256Mismatch; no"):
            await bucket(endpoint).put("bodies/a", b"x")

    with answering(Answers(400, "XAmzContentSHA256Mismatch")) as endpoint:
        asyncio.run(story(endpoint))


def test_a_removal_does_not_wait_for_bytes_that_it_does_not_read() -> None:
    """MinIO removes nothing of which it still sends bytes."""

    async def story(endpoint: str) -> None:
        assert await bucket(endpoint, answer_s=5).remove("bodies/a", 1 << 60) == "removed"

    with answering(Answers(200, "x" * (32 << 20), one_at_a_time=True)) as endpoint:
        asyncio.run(story(endpoint))


def test_equal_bodies_are_stored_where_a_name_is_written_once_a_second() -> None:
    """R2 and Google answer 429 to a second write of one name."""

    async def story(endpoint: str) -> None:
        left, right = BucketBlobs(bucket(endpoint)), BucketBlobs(bucket(endpoint))
        stored = await asyncio.gather(*(blobs.put(b"x" * 100) for blobs in (left, right) * 4))
        assert set(stored) == {sha256_hex(b"x" * 100)}
        assert bytes(await right.get(stored[0])) == b"x" * 100

    with s3_server(writes_of_a_name_max=1) as endpoint:
        asyncio.run(story(endpoint))


def test_a_refused_put_that_finds_its_body_is_no_trouble_of_the_bucket() -> None:
    async def story(endpoint: str) -> None:
        store = bucket(endpoint)
        blobs = BucketBlobs(store)
        await blobs.put(b"x")
        await blobs.put(b"x")
        assert store.complaint() is None

    with s3_server(writes_of_a_name_max=1) as endpoint:
        asyncio.run(story(endpoint))


@pytest.mark.parametrize(("later_ms", "stored"), [(YOUNG_MS - 60_000, True), (YOUNG_MS + 60_000, False)])
def test_a_refused_put_of_an_old_body_is_trouble_since_a_rule_of_age_may_remove_it(later_ms: int, stored: bool) -> None:
    async def story(endpoint: str) -> None:
        await BucketBlobs(bucket(endpoint)).put(b"x")
        store = bucket(endpoint, now_ms=lambda: time.time_ns() // 1_000_000 + later_ms)
        if stored:
            assert await BucketBlobs(store).put(b"x") == sha256_hex(b"x")
            return
        with pytest.raises(BlobStoreError, match="fewer requests"):
            await BucketBlobs(store).put(b"x")
        assert store.complaint() is not None

    with s3_server(writes_of_a_name_max=1) as endpoint:
        asyncio.run(story(endpoint))


def test_a_refused_put_whose_body_is_not_there_is_trouble() -> None:
    async def story(endpoint: str) -> None:
        with pytest.raises(BlobStoreError, match="fewer requests"):
            await BucketBlobs(bucket(endpoint)).put(b"x")

    with s3_server(writes_of_a_name_max=0) as endpoint:
        asyncio.run(story(endpoint))


def test_rival_claims_agree_where_a_name_is_written_once_a_second() -> None:
    async def story(endpoint: str) -> None:
        rivals = [f"{number:064x}" for number in range(6)]
        claims = [BucketClaims(bucket(endpoint), within_s=30) for _ in rivals]
        first = await asyncio.gather(*(one.claim("j", sha256) for one, sha256 in zip(claims, rivals, strict=True)))
        assert len(set(first)) == 1
        assert first[0] in rivals

    with s3_server(writes_of_a_name_max=1) as endpoint:
        asyncio.run(story(endpoint))
