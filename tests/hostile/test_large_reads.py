"""Reads of large results: their memory is shared, and a client that does not read loses its place."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from backstop.runtime.blobs import Bodies, FolderBlobs
from receiver.answers import write_pieces
from receiver.limits import Limits
from schemas.requests import Submit
from streams.submission import prepare
from tests.hostile.pauses import least_pause_s
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import Ingress, with_ingress
from tests.unit.receiver.reads import MemoryChanges, MemoryReads
from tests.unit.receiver.sdk_caller import ASKED, ended, provided, result_of
from tests.unit.receiver.test_sdk_keys import CREATED, Ring, ring

__all__ = ["ring"]

TEXT = "Hello. " * 1_200_000
"""Some 8 MB: more than the buffers of the system take."""

READ_BYTES = 24 << 20
PAUSE_S_MAX = 0.075
"""Copies of 24 MiB and the hash of the stored text are not divisible."""

LIMITS = Limits(stream_write_s=0.5, answers_memory_bytes_max=30 << 20)
"""One answer of 8 MB counts 15 MB while it is made, half of the memory."""

PATH = "/v1/responses/resp_1"


async def stored(folder: Path, text: str = TEXT, asked: dict[str, Any] = ASKED) -> MemoryReads:
    reads, blobs = MemoryReads(), FolderBlobs(folder)
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    body = await Bodies(blobs, 10).put(provided(output=[message]))
    ended(reads, "resp_1", result_of("completed").model_copy(update={"response": body}), asked)
    await blobs.put(prepare(Submit(request=asked)).data)
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


@pytest.mark.parametrize("unit", ['\n"', pytest.param("Hello. ", marks=pytest.mark.long)])
def test_a_read_of_a_large_result_holds_up_the_doors_no_longer_than_any_body(unit: str, tmp_path: Path) -> None:
    text = unit * (READ_BYTES // len(orjson.dumps(unit)[1:-1]))
    reads = asyncio.run(stored(tmp_path, text, {"model": "gpt-5.2", "input": "y" * 3_000_000, "temperature": 0.5}))

    async def story(ingress: Ingress) -> None:
        async def read() -> None:
            async with ingress.session.get(f"{ingress.url}{PATH}") as answer:
                assert answer.status == 200
                got.extend([piece async for piece in answer.content.iter_any()])

        got: list[bytes] = []
        assert await least_pause_s(PAUSE_S_MAX, read) <= PAUSE_S_MAX
        got.clear()
        await read()
        document = orjson.loads(b"".join(got))
        assert (document["id"], document["temperature"]) == ("resp_1", 0.5)
        assert document["output"][0]["content"][0]["text"] == text
        assert b"".join(got).count(b'"output":') == 1

        async def follow() -> None:
            asked = {**ASKED, "previous_response_id": "resp_1"}
            assert (await ingress.call("POST", "/v1/responses", json=asked))[0] == 200

        assert await least_pause_s(PAUSE_S_MAX, follow) <= PAUSE_S_MAX

    with_ingress(story, blobs=FolderBlobs(tmp_path), reads=reads)


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


def test_a_download_ends_with_its_key(tmp_path: Path, ring: Ring) -> None:
    """A slow client may take minutes for a large answer."""
    key = ring.add("default")

    async def story(ingress: Ingress) -> None:
        async with ingress.session.get(f"{ingress.url}{PATH}", headers=key) as answer:
            taken = len(await answer.content.readany())
            ring.keys[0] = ring.keys[0].model_copy(update={"revoked_at": CREATED})
            ring.save()
            assert (await ingress.call("GET", PATH, headers=key))[0] == 401
            with suppress(aiohttp.ClientPayloadError):
                while piece := await answer.content.readany():
                    taken += len(piece)
            assert taken < len(TEXT)

    reads = asyncio.run(stored(tmp_path))
    with_ingress(story, blobs=FolderBlobs(tmp_path), reads=reads, keys_file=ring.path)


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


def test_streams_of_large_requests_hold_no_memory_while_they_wait(tmp_path: Path) -> None:
    reads, changes = MemoryReads(), MemoryChanges()

    async def story(ingress: Ingress) -> None:
        async with AsyncExitStack() as streams:
            for number in range(4):
                body = {"model": "m", "stream": True, "input": f"{number}" * 300_000}
                stream = ingress.session.post(f"{ingress.url}/v1/responses", json=body)
                answer = await streams.enter_async_context(stream)
                assert (answer.status, await answer.content.readline()) == (200, b"event: response.created\n")
                fact: Any = ingress.publisher.landed[-1]
                reads.add("default", fact.key, status="running", request_sha256=fact.request_sha256)
                changes.touch(fact.key)

                async def is_shown(key: str = fact.key) -> bool:
                    return (await ingress.call("GET", f"/v1/responses/{key}"))[0] == 200

                await eventually(is_shown, 5, "a read beside the streams")

    limits = Limits(answers_memory_bytes_max=2 << 20)
    with_ingress(story, blobs=FolderBlobs(tmp_path), reads=reads, changes=changes, limits=limits)


@pytest.mark.parametrize("resumed", [False, True])
def test_what_a_stream_shows_of_its_request_counts_until_its_end(tmp_path: Path, *, resumed: bool) -> None:
    """Its first events show `instructions` and `tools`, so it keeps them."""
    reads, changes = MemoryReads(), MemoryChanges()
    body = {"model": "m", "stream": True, "instructions": "x" * 300_000}

    async def story(ingress: Ingress) -> None:
        async def begin(number: int, streams: AsyncExitStack) -> int:
            if resumed and number:
                path = f"{ingress.url}/v1/responses/{ingress.publisher.landed[0].key}?stream=true"
                answer = await streams.enter_async_context(ingress.session.get(path))
            else:
                asked = {**body, "input": f"{number}"}
                answer = await streams.enter_async_context(
                    ingress.session.post(f"{ingress.url}/v1/responses", json=asked)
                )
            if answer.status == 200:
                assert await answer.content.readline() == b"event: response.created\n"
            fact: Any = ingress.publisher.landed[0]
            reads.add("default", fact.key, status="running", request_sha256=fact.request_sha256)
            return answer.status

        async with AsyncExitStack() as streams:
            begun = 0
            while await begin(begun, streams) == 200:
                begun += 1
            assert 2 <= begun <= 6, "half of the memory is the most that one tenant takes"
            assert len(ingress.publisher.landed) == (1 if resumed else begun), "what is refused is not in the log"

        async def is_there_room() -> bool:
            async with AsyncExitStack() as streams:
                return await begin(9, streams) == 200

        await eventually(is_there_room, 5, "room after the streams")

    limits = Limits(answers_memory_bytes_max=4 << 20, stream_heartbeat_s=0.1)
    with_ingress(story, blobs=FolderBlobs(tmp_path), reads=reads, changes=changes, limits=limits)


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
