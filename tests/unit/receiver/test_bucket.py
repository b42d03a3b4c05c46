"""The receiver with blobs in a bucket: bodies are stored there and read back; while it fails, nothing is accepted."""

import pytest

from backstop.runtime.bucket import BucketBlobs
from tests.unit.backstop.runtime.s3_server import Answers, answering, bucket, s3_server
from tests.unit.receiver.ingress import Ingress, with_ingress

LARGE = {"model": "m", "background": True, "input": "x" * 100_000}
TROUBLES = [(403, "InvalidAccessKeyId"), (404, "NoSuchBucket"), (503, "SlowDown")]


def test_a_large_body_is_in_the_bucket_before_it_is_accepted() -> None:
    with s3_server() as endpoint:
        blobs = BucketBlobs(bucket(endpoint))

        async def story(ingress: Ingress) -> None:
            status, created, _ = await ingress.call("POST", "/v1/responses", json=LARGE)
            assert status == 200
            (fact,) = ingress.publisher.landed
            assert fact.request.kind == "blob"  # type: ignore[attr-defined]
            assert len(await blobs.get(fact.request.sha256)) == fact.request.size_bytes  # type: ignore[attr-defined]
            path = f"/v1/responses/{created['id']}"
            status, items, _ = await ingress.call("GET", f"{path}/input_items")
            assert status == 200
            assert items["data"][0]["content"][0]["text"] == LARGE["input"]
            assert (await ingress.call("DELETE", path))[0] == 200
            assert (await ingress.call("GET", path))[0] == 404

        with_ingress(story, blobs=blobs)


@pytest.mark.parametrize(("status", "code"), TROUBLES)
def test_while_the_bucket_fails_requests_get_503_with_retry_after(status: int, code: str) -> None:
    with answering(Answers(status, code)) as endpoint:

        async def story(ingress: Ingress) -> None:
            for method, path, body in (
                ("POST", "/v1/jobs", {"request": {"model": "m", "input": "x" * 100_000}}),
                ("POST", "/v1/responses", LARGE),
                ("GET", "/v1/responses/resp_1", None),
            ):
                told, document, answer = await ingress.call(method, path, json=body)
                assert told == 503, (path, document)
                assert int(answer.headers["Retry-After"]) > 0
                assert endpoint not in str(document)
                assert code not in str(document)
            assert ingress.publisher.landed == []

        with_ingress(story, blobs=BucketBlobs(bucket(endpoint)))
