"""Answers of the provider that would fill a worker's memory: what is read of them, and what comes of their jobs."""

import asyncio
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from schemas.base import InlineBody
from schemas.jobs import AttemptAccepted, AttemptRejected, AttemptUnknown
from schemas.responses import PollFailed, ResponseObserved
from streams.answer_memory import AnswerMemory, Hold
from streams.openai.bounded import EVENTS_PIECE_BYTES, pieces_of
from streams.provider import AskAgain, Told, TooMuch
from tests.hostile.pauses import least_pause_s
from tests.support.accounts import account_at, provider_of
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.calling import calling, poll
from tests.unit.streams.workers.misbehaving import RESPONSE_ID, Mischief, serving
from tests.unit.streams.workers.submitting import create, submitting

MIB: Final = 1 << 20
LIMIT_BYTES: Final = 2 * MIB
MEMORY_BYTES: Final = 24 * MIB
"""What an answer beyond the limit may cost, the server in the same process included."""
WAIT_S: Final = 60
PAUSE_S_MAX: Final = 0.100
HUGE_BYTES: Final = 64 * MIB

TEXT = b'"output": [{"type": "message", "content": [{"type": "output_text", "text": "'
ENDED = json.dumps(server.response(status="completed"))[:-1].encode() + b", " + TEXT
RUNNING = json.dumps(server.response(status="in_progress"))[:-1].encode() + b", " + TEXT
REFUSAL = b'{"error": {"code": "invalid_prompt", "message": "No."}, "more": "'
LATE = b'{"id": "resp_1", "object": "response", ' + TEXT
"""The status comes after the output, as from servers that sort the fields."""


def filled(beginning: bytes, filling: bytes, size_bytes: int) -> Iterator[bytes]:
    yield beginning
    piece = filling * (MIB // len(filling))
    for _ in range(size_bytes // len(piece)):
        yield piece


@cache
def packed(beginning: bytes, filling: bytes, size_bytes: int) -> bytes:
    """As gzip: 64 MiB of one letter are 64 KiB."""
    return gzipped(filled(beginning, filling, size_bytes))


def gzipped(pieces: Iterable[bytes]) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*map(packer.compress, pieces), packer.flush()])


def plain(pieces: Callable[[], Iterator[bytes]], status: int = 200, **headers: str) -> Mischief:
    """Chunked; with `content_length`, as one announced body."""
    head = {"content_type": "application/json", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in head.items())
    chunked = "content_length" not in headers

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} Whatever\r\n{lines}".encode())
        writer.write(b"transfer-encoding: chunked\r\n\r\n" if chunked else b"\r\n")
        for piece in pieces():
            if piece:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")

    return send


def huge(beginning: bytes, form: str, status: int = 200, filling: bytes = b"A") -> Mischief:
    def pieces() -> Iterator[bytes]:
        return filled(beginning, filling, HUGE_BYTES)

    match form:
        case "announced":
            return plain(pieces, status, content_length=str(len(beginning) + HUGE_BYTES))
        case "chunked":
            return plain(pieces, status)
        case "gzip":
            once = packed(beginning, filling, HUGE_BYTES)
            return plain(lambda: iter([once]), status, content_encoding="gzip")
        case _:
            return plain(pieces, status, content_type="text/event-stream")


FORMS = ("announced", "chunked", "gzip", "event stream")


@contextmanager
def within(bytes_max: int) -> Iterator[None]:
    """Python's memory grows by no more than this."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < bytes_max, f"{peak // MIB} MiB"


def polled(tmp_path: Path, *script: Mischief, facts: int = 1, **options: Any) -> list[Any]:
    async def scenario() -> list[Any]:
        limits = {"answer_bytes_max": LIMIT_BYTES, "answers_memory_bytes_max": 16 * MIB}
        async with calling(tmp_path, *script, provider_options=limits, poll_timeout_ms=20_000, **options) as bench:
            for _ in range(facts):
                bench.commands.publish(poll())
            return await bench.facts(facts, WAIT_S)

    return asyncio.run(scenario())


@pytest.mark.parametrize("form", FORMS[:3])
def test_a_poll_whose_answer_is_huge_ends_the_attempt_with_a_reason(form: str, tmp_path: Path) -> None:
    with within(MEMORY_BYTES):
        (fact,) = polled(tmp_path, huge(ENDED, form))
    assert isinstance(fact, ResponseObserved)
    assert (fact.outcome, fact.cause, fact.code) == ("failed", "never", "answer_too_large")
    assert fact.said_by == "backstop"
    assert fact.message is not None
    assert "BACKSTOP_OPENAI_ANSWER_BYTES_MAX" in fact.message
    assert isinstance(fact.response, InlineBody)
    shown: Any = fact.response.value
    assert (shown["id"], shown["status"], shown["output"]) == (RESPONSE_ID, "failed", [])
    assert shown["error"]["code"] == "answer_too_large"


@cache
def nothing_packed_thrice() -> bytes:
    """A kilobyte that unpacks to 80 MB of empty blocks, and these to nothing."""
    gzip_header, empty_block = b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"\0\0\0\xff\xff"
    once = gzipped([gzip_header, *[empty_block * (MIB // 4)] * 64])
    return gzipped([once])


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
def test_an_answer_that_is_packed_more_than_once_is_not_unpacked(content_type: str, tmp_path: Path) -> None:
    body = nothing_packed_thrice()
    assert len(body) < 2_000
    answer = server.answer(200, body, content_type=content_type, content_encoding="gzip, gzip, gzip")

    async def scenario() -> tuple[float, Any]:
        async with calling(tmp_path, *[answer] * 9, poll_timeout_ms=20_000, tries_max=1) as bench:

            async def ask() -> None:
                bench.commands.publish(poll())
                await bench.facts(1, WAIT_S)
                await following(answer)

            return await least_pause_s(PAUSE_S_MAX, ask), bench.publisher.landed[0]

    pause_s, fact = asyncio.run(scenario())
    assert pause_s < PAUSE_S_MAX
    assert isinstance(fact, ResponseObserved)
    assert (fact.outcome, fact.code) == ("missing", "no_response_object")


def test_a_running_response_with_a_huge_answer_runs_on(tmp_path: Path) -> None:
    (fact,) = polled(tmp_path, huge(RUNNING, "chunked"))
    assert (fact.outcome, fact.raw_status, fact.response) == ("running", "in_progress", None)


def test_a_huge_answer_without_its_status_is_of_an_unknown_status_which_the_fold_gives_time(tmp_path: Path) -> None:
    (fact,) = polled(tmp_path, huge(LATE, "gzip"))
    assert (fact.outcome, fact.raw_status, fact.code) == ("odd", "answer_too_large", "answer_too_large")


@pytest.mark.parametrize("status", [404, 429, 500])
def test_a_huge_error_is_read_by_its_status(status: int, tmp_path: Path) -> None:
    with within(MEMORY_BYTES):
        (fact,) = polled(tmp_path, *[huge(b"<html>", "chunked", status)] * 3, tries_max=1)
    if status == 404:  # the page of a proxy: the fold gives the response ten minutes
        assert isinstance(fact, ResponseObserved)
        assert (fact.outcome, fact.code) == ("missing", "http_404")
        return
    assert isinstance(fact, PollFailed)
    assert fact.reason in {f"http_{status}", "edge_block"}


def test_an_endless_stream_of_events_is_no_answer_to_a_poll(tmp_path: Path) -> None:
    with within(MEMORY_BYTES):
        (fact,) = polled(tmp_path, huge(b"data: {}\n\n", "event stream", filling=b"data: {}\n\n"))
    assert (fact.outcome, fact.raw_status) == ("odd", "answer_too_large")


def test_an_answer_of_a_million_empty_lists_is_not_parsed(tmp_path: Path) -> None:
    body = ENDED + b'"}]}], "more": [' + b"[]," * 2_100_000 + b"[]]}"
    with within(4 * len(body) + MEMORY_BYTES):
        (fact,) = polled_whole(tmp_path, server.answer(200, body))
    assert (fact.outcome, fact.code) == ("failed", "answer_too_large")


def polled_whole(tmp_path: Path, mischief: Mischief) -> list[Any]:
    async def scenario() -> list[Any]:
        async with calling(tmp_path, mischief, poll_timeout_ms=20_000) as bench:
            bench.commands.publish(poll())
            return await bench.facts(1, WAIT_S)

    return asyncio.run(scenario())


def test_an_answer_of_just_the_limit_is_an_answer(tmp_path: Path) -> None:
    whole = json.dumps(server.completed()).encode()
    (fact,) = polled(tmp_path, server.answer(200, whole + b" " * (LIMIT_BYTES - len(whole))))
    assert (fact.outcome, fact.response) == ("completed", InlineBody(value=server.completed()))


@pytest.mark.parametrize(
    ("form", "beginning", "status", "kind", "told"),
    [
        ("announced", RUNNING, 200, AttemptAccepted, RESPONSE_ID),
        ("gzip", ENDED, 200, AttemptAccepted, RESPONSE_ID),
        ("chunked", b"[1, ", 200, AttemptUnknown, "answer_too_large: http_200"),
        ("gzip", REFUSAL, 400, AttemptRejected, "invalid_prompt"),
    ],
)  # fmt: skip
def test_a_create_whose_answer_is_huge_is_read_by_its_beginning(
    form: str, beginning: bytes, status: int, kind: type, told: str, tmp_path: Path
) -> None:
    async def scenario() -> list[Any]:
        limits = {"answer_bytes_max": LIMIT_BYTES, "answers_memory_bytes_max": 16 * MIB}
        async with submitting(tmp_path, huge(beginning, form, status), provider_options=limits) as bench:
            bench.commands.publish(create().model_copy(update={"timeout_ms": 20_000}))
            return await bench.facts(1, WAIT_S)

    with within(MEMORY_BYTES):
        (fact,) = asyncio.run(scenario())
    assert isinstance(fact, kind)
    assert told in {getattr(fact, name, None) for name in ("response_id", "reason", "code")}
    assert getattr(fact, "end", None) is None, "a poll shows whether it can be read at all"


def followed(mischief: Mischief) -> Any:
    """What follows of the stream: its last step, or why there is none."""
    return asyncio.run(following(mischief))


async def following(mischief: Mischief) -> Any:
    async with serving(mischief) as state:
        provider = provider_of(
            account_at(state.base_url), lambda: 0, answer_bytes_max=LIMIT_BYTES, answers_memory_bytes_max=64 * MIB
        )
        try:
            stream = provider.follow(RESPONSE_ID, event_bytes_max=100_000, response_bytes_max=MIB)
            async with stream.opened() as opened:
                if isinstance(opened, AskAgain):
                    return opened
                last = None
                async for step in opened:  # type: ignore[union-attr]
                    last = step
                    if not isinstance(step, Told):
                        break
                return last
        finally:
            await provider.close()


EVENT = b'data: {"type": "response.output_text.delta", "sequence_number": 0, "delta": "'


@pytest.mark.parametrize(
    ("filling", "packing"),
    [(b"A", False), (b"A", True), (b"data:\n", False), (b"\ndata: x", True)],
)
def test_a_huge_event_ends_the_partial_output_with_a_reason(filling: bytes, packing: bool) -> None:
    beginning = EVENT if filling == b"A" else b""

    def pieces() -> Iterator[bytes]:
        if packing:
            return iter([packed(beginning, filling, HUGE_BYTES)])
        return filled(beginning, filling, HUGE_BYTES)

    stream = "text/event-stream"
    sent = (
        plain(pieces, content_type=stream, content_encoding="gzip") if packing else plain(pieces, content_type=stream)
    )
    with within(4 * 16 * MIB + MEMORY_BYTES):
        last = followed(sent)
    assert last == TooMuch("event_too_large")


class _Once(httpx2.AsyncByteStream):
    """A body that has come whole: reading it never waits for the network."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data


def test_a_packed_stream_of_events_lets_other_calls_have_their_turns_while_it_is_unpacked() -> None:
    once = packed(b"", b"\n", 8 * MIB)
    response = httpx2.Response(
        200, headers={"content-encoding": "gzip"}, stream=_Once(once), request=httpx2.Request("GET", "http://x")
    )

    async def read() -> int:
        return sum([len(piece) async for piece in pieces_of(response)])

    async def scenario() -> tuple[int, int]:
        reading, turns = asyncio.create_task(read()), 0
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
        return await reading, turns

    size_bytes, turns = asyncio.run(scenario())
    assert size_bytes == 8 * MIB
    assert turns >= size_bytes // EVENTS_PIECE_BYTES


def test_an_event_of_a_million_empty_lists_ends_the_partial_output() -> None:
    event = b'data: {"type": "response.completed", "sequence_number": 0, "x": [' + b"[]," * 2_100_000 + b"[]]}\n\n"
    with within(4 * len(event) + MEMORY_BYTES):
        assert followed(server.answer(200, event, content_type="text/event-stream")) == TooMuch("event_too_large")


def test_a_stream_that_is_refused_with_a_huge_body_is_opened_again() -> None:
    with within(MEMORY_BYTES):
        refused = followed(huge(b"<html>", "chunked", 503))
    assert refused == AskAgain("http_503")


def test_large_answers_wait_for_each_other_and_the_oldest_goes_on() -> None:
    async def scenario() -> None:
        memory, old, young, late = AnswerMemory(10), Hold(), Hold(), Hold()
        await memory.resize(old, 6)
        waiting = asyncio.create_task(memory.resize(young, 5))
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.wait_for(memory.resize(old, 20), 1)
        third = asyncio.create_task(memory.resize(late, 1))
        await asyncio.sleep(0)
        assert not third.done()
        old.release()
        await asyncio.wait_for(asyncio.gather(waiting, third), 1)
        assert memory.held_bytes == 6
        young.release()
        late.release()
        assert memory.held_bytes == 0

    asyncio.run(scenario())


def test_sixteen_large_answers_at_a_time_wait_for_memory(tmp_path: Path) -> None:
    body = json.dumps({**server.completed(), "more": "A" * (LIMIT_BYTES - 4_096)}).encode()
    pieces = [body[at : at + 65_536] for at in range(0, len(body), 65_536)]

    def peak_bytes(memory_bytes: int) -> int:
        async def scenario() -> list[Any]:
            limits = {"answer_bytes_max": LIMIT_BYTES, "answers_memory_bytes_max": memory_bytes}
            async with calling(
                tmp_path, plain(lambda: iter(pieces)), provider_options=limits, poll_timeout_ms=30_000
            ) as bench:
                for number in range(16):
                    bench.commands.publish(poll(f"resp_{number}"))
                return await bench.facts(16, WAIT_S)

        tracemalloc.start()
        try:
            assert {fact.outcome for fact in asyncio.run(scenario())} == {"completed"}
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # The parser and the writer reserve a multiple of what they use, so the two are compared.
    assert 3 * peak_bytes(12 * MIB) < peak_bytes(1 << 30)


@pytest.mark.parametrize("status", [200, 400])
def test_a_create_whose_answer_is_packed_twice_is_sent_once_and_not_unpacked(status: int, tmp_path: Path) -> None:
    answer = server.answer(status, nothing_packed_thrice(), content_encoding="gzip, gzip, gzip")

    async def scenario() -> tuple[list[Any], int]:
        async with submitting(tmp_path, *[answer] * 3) as bench:
            bench.commands.publish(create().model_copy(update={"timeout_ms": 20_000}))
            return await bench.facts(1, WAIT_S), bench.server.posts

    with within(MEMORY_BYTES):
        (fact,), posts = asyncio.run(scenario())
    assert isinstance(fact, AttemptUnknown if status == 200 else AttemptRejected)
    assert posts == 1
