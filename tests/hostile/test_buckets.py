"""What a bucket, a server in its place, or a folder may answer, or not: nothing ends the process or hangs, and nothing
but a body is a body.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from backstop.runtime.blobs import MARK, FolderBlobs, Removal
from backstop.runtime.bucket import BucketBlobs, BucketClaims
from backstop.runtime.claims import FolderClaims
from backstop.runtime.errors import BlobMissingError, BlobStoreError
from backstop.runtime.process.threads import THREADS_MAX
from schemas.codec import sha256_hex
from tests.unit.backstop.runtime.buckets import PROVIDERS, Clients
from tests.unit.backstop.runtime.s3_server import NAME

BODY = b"x" * 2_000
SHA256 = sha256_hex(BODY)
DATE = b"Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n"
ELSEWHERE = b"Location: http://127.0.0.1:1/elsewhere\r\n"


def answer(status: bytes, body: bytes = b"", *headers: bytes, length: int | None = None) -> bytes:
    size = b"Content-Length: %d\r\n" % (len(body) if length is None else length)
    return b"HTTP/1.1 " + status + b"\r\n" + size + b'ETag: "e"\r\n' + DATE + b"".join(headers) + b"\r\n" + body


FALSE_BODIES: dict[str, bytes] = {
    "an announced length that no machine has": answer(b"200 OK", BODY, length=1 << 45),
    "an announced length over the limit": answer(b"200 OK", BODY, length=(1 << 30) + 1),
    "an end before the announced length": answer(b"200 OK", BODY[:7], length=len(BODY)),
    "a conflict": answer(b"409 Conflict"),
    "a 404 that is not the store's": answer(b"404 Not Found", b"404 page not found"),
    "not modified": answer(b"304 Not Modified"),
    "a failed condition": answer(b"412 Precondition Failed"),
    "a redirect to another host": answer(b"307 Temporary Redirect", b"", ELSEWHERE),
    "a redirect to nowhere": answer(b"301 Moved Permanently"),
    "no length": b"HTTP/1.1 200 OK\r\n" + DATE + b"Transfer-Encoding: chunked\r\n\r\n5\r\nxxxxx\r\n0\r\n\r\n",
    "no HTTP": b"\0\1garbage\r\n\r\n",
    "nothing": b"",
}  # fmt: skip
OTHER_BODIES: dict[str, bytes] = {
    "another body": answer(b"200 OK", b"y" * len(BODY)),
    "an error with 200": answer(b"200 OK", b"<Error><Code>InternalError</Code></Error>"),
    "a longer body": answer(b"200 OK", BODY + b"x"),
    "no body": answer(b"200 OK"),
    "a 404 of S3": answer(b"404 Not Found", b"<Error><Code>NoSuchKey</Code></Error>"),
    "a 404 of Google": answer(
        b"404 Not Found",
        "".join(
            f"No such object: {NAME}/deployment/one/{place}/{SHA256[:2]}/{SHA256}\n" for place in ("bodies", "marks")
        )
        .encode(),
    ),
}  # fmt: skip
OF_ONE: dict[str, str] = {"a 404 of S3": "s3", "a 404 of Google": "google"}
"""Answers that are another server's to the other provider's clients."""


@pytest.fixture(params=PROVIDERS)
def clients(request: pytest.FixtureRequest) -> Clients:
    return Clients(PROVIDERS[request.param])


@contextmanager
def answering(raw: bytes | None) -> Iterator[str]:
    """A server that sends `raw` to each request and closes; with None it never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                with suppress(OSError):
                    connection.recv(1 << 16)
                    if raw is not None:
                        connection.sendall(raw)
                        connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


@pytest.mark.parametrize("raw", FALSE_BODIES.values(), ids=FALSE_BODIES)
def test_an_answer_that_tells_nothing_of_the_blob_is_trouble_of_the_store(raw: bytes, clients: Clients) -> None:
    async def story(endpoint: str) -> None:
        blobs = BucketBlobs(clients(endpoint))
        with pytest.raises(BlobStoreError):
            await blobs.get(SHA256)
        with pytest.raises(BlobStoreError):
            await blobs.has(MARK)  # False would show a deleted response again

    with answering(raw) as endpoint:
        clients.run(story(endpoint))


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("told", OTHER_BODIES)
def test_what_is_not_the_body_is_missing(told: str, provider: str) -> None:
    clients = Clients(PROVIDERS[provider])
    missing = OF_ONE.get(told, provider) == provider

    async def story(endpoint: str) -> None:
        with pytest.raises(BlobMissingError if missing else BlobStoreError):
            await BucketBlobs(clients(endpoint)).get(SHA256)

    with answering(OTHER_BODIES[told]) as endpoint:
        clients.run(story(endpoint))


def test_a_404_that_is_not_the_stores_does_not_tell_that_the_bucket_is_missing(clients: Clients) -> None:
    async def story(endpoint: str) -> None:
        with pytest.raises(BlobStoreError, match="can't be reached"):
            await BucketBlobs(clients(endpoint)).put(BODY)

    with answering(FALSE_BODIES["a 404 that is not the store's"]) as endpoint:
        clients.run(story(endpoint))


def test_a_put_that_met_a_conflict_is_not_stored_and_such_a_claim_is_left_to_the_log(clients: Clients) -> None:
    async def story(endpoint: str) -> None:
        with pytest.raises(BlobStoreError):
            await BucketBlobs(clients(endpoint)).put(BODY)
        assert await BucketClaims(clients(endpoint)).claim("default:job", SHA256) is None

    with answering(answer(b"409 Conflict")) as endpoint:
        clients.run(story(endpoint))


def test_a_bucket_that_never_answers_is_given_up_in_time(clients: Clients) -> None:
    async def story(endpoint: str) -> None:
        silent = BucketBlobs(clients(endpoint, answer_s=0.1))
        async with asyncio.timeout(30):
            for asking in (silent.get(SHA256), silent.put(BODY), silent.has(MARK)):
                with pytest.raises(BlobStoreError, match=r"can't be reached.*no answer in time"):
                    await asking

    with answering(None) as endpoint:
        clients.run(story(endpoint))


def test_a_folder_that_hangs_is_given_up_in_time_and_holds_up_no_other_thread(tmp_path: Path) -> None:
    sha256 = sha256_hex(b"")
    hung = tmp_path / sha256[:2] / sha256
    hung.parent.mkdir()
    os.mkfifo(hung)

    async def story() -> None:
        blobs = FolderBlobs(tmp_path, answer_s=0.1)
        asked = [*(blobs.get(sha256) for _ in range(40)), *(blobs.put(b"") for _ in range(40))]
        heard = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(one) for one in heard} == {BlobStoreError}
        assert await asyncio.to_thread(int) == 0

    try:
        asyncio.run(story())
    finally:
        os.close(os.open(hung, os.O_WRONLY | os.O_NONBLOCK))  # the threads that wait hear an end


def test_a_removal_that_hangs_is_given_up_in_time_and_holds_up_no_other_thread(tmp_path: Path) -> None:
    over = threading.Event()

    class Hung(FolderBlobs):
        def _remove(self, _sha256: str, _before_ms: int) -> Removal:
            over.wait()
            return "absent"

    async def story() -> None:
        blobs = Hung(tmp_path, answer_s=0.1)
        heard = await asyncio.gather(*(blobs.remove(SHA256, 0) for _ in range(40)), return_exceptions=True)
        assert {type(one) for one in heard} == {BlobStoreError}
        assert await asyncio.to_thread(int) == 0

    try:
        asyncio.run(story())
    finally:
        over.set()


def test_a_claim_that_hangs_is_left_to_the_log(tmp_path: Path) -> None:
    async def story() -> None:
        over, claims = threading.Event(), FolderClaims(tmp_path, within_s=0.1)
        hung = [asyncio.ensure_future(claims._threads.run(over.wait)) for _ in range(THREADS_MAX)]
        assert await asyncio.gather(*(claims.claim("default:job", SHA256) for _ in range(20))) == [None] * 20
        over.set()
        await asyncio.gather(*hung)
        assert await FolderClaims(tmp_path).claim("default:job", SHA256) == SHA256

    asyncio.run(story())
