"""What is sent to a bucket, whatever the environment says for other programs, and what of its answers is told."""

import asyncio

import pytest

from backstop.runtime.errors import BlobStoreError
from tests.unit.backstop.runtime.s3_server import KEY_ID, NAME, Answers, answering, bucket

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
