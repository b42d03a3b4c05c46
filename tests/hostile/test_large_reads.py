"""Reads of large results: their memory is shared, and a client that does not read loses its place."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from backstop.runtime.blobs import Bodies, FolderBlobs
from receiver.answers import write_pieces
from receiver.limits import Limits
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import Ingress, with_ingress
from tests.unit.receiver.reads import MemoryChanges, MemoryReads
from tests.unit.receiver.sdk_caller import ended, provided, result_of

TEXT = "Hello. " * 1_200_000
"""Some 8 MB: more than the buffers of the system take."""

LIMITS = Limits(stream_write_s=0.5, answers_memory_bytes_max=30 << 20)
"""One answer of 8 MB counts 15 MB while it is made, half of the memory."""

PATH = "/v1/responses/resp_1"


async def stored(folder: Path) -> MemoryReads:
    reads = MemoryReads()
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": TEXT}]}
    body = await Bodies(FolderBlobs(folder), 10).put(provided(output=[message]))
    ended(reads, "resp_1", result_of("completed").model_copy(update={"response": body}))
    return reads


@asynccontextmanager
async def not_reading(ingress: Ingress) -> AsyncIterator[socket.socket]:
    """A client that asks for a large answer and takes nothing of it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, ("127.0.0.1", ingress.port))
        await loop.sock_sendall(sock, f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert await loop.sock_recv(sock, 12) == b"HTTP/1.1 200"
        yield sock
    finally:
        sock.close()


def test_a_client_that_does_not_read_its_answer_is_cut_off_and_frees_its_memory(tmp_path: Path) -> None:
    async def story(ingress: Ingress) -> None:
        async with not_reading(ingress):
            status, document, answer = await ingress.call("GET", PATH)
            assert (status, document["error"]["code"]) == (503, "busy"), "there is no room for a second one"
            assert int(answer.headers["Retry-After"]) > 0

            async def whole() -> bool:
                status, document, _ = await ingress.call("GET", PATH)
                return status == 200 and document["output"][0]["content"][0]["text"] == TEXT

            await eventually(whole, 20, "the place of the client that does not read")

    reads = asyncio.run(stored(tmp_path))
    with_ingress(story, blobs=FolderBlobs(tmp_path), reads=reads, limits=LIMITS)


def test_a_waiting_create_is_answered_whatever_the_memory_for_answers_holds(tmp_path: Path) -> None:
    """Its job is in the log: it waits for room, too."""
    reads, changes = asyncio.run(stored(tmp_path)), MemoryChanges()
    _, seen = reads.jobs["resp_1"]

    async def story(ingress: Ingress) -> None:
        async with not_reading(ingress):
            creating = asyncio.create_task(ingress.call("POST", "/v1/responses", json={"model": "m", "input": "Hi"}))
            await eventually(lambda: bool(ingress.publisher.acked), 5, "the job")
            (fact,) = ingress.publisher.acked
            mine = replace(seen, request_sha256=fact.request_sha256)  # type: ignore[attr-defined]
            reads.jobs[fact.key] = ("default", mine)
            changes.touch(fact.key)

            async def answered() -> bool:
                changes.touch(fact.key)
                return creating.done()

            await eventually(answered, 20, "the answer")
            status, document, _ = await creating
            assert (status, document["status"]) == (200, "completed")

    with_ingress(story, blobs=FolderBlobs(tmp_path), reads=reads, changes=changes, limits=LIMITS)


def test_a_slow_client_has_time_for_each_piece_and_not_for_all_of_them() -> None:
    taken: list[int] = []

    async def slow(piece: memoryview) -> None:
        await asyncio.sleep(0.01)
        taken.append(len(piece))

    data = bytes(2_000_000)
    asyncio.run(write_pieces(slow, data, within_s=0.2))
    assert sum(taken) == len(data)

    async def stuck(_piece: memoryview) -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(write_pieces(stuck, data, within_s=0.01))
