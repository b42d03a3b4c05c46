"""Answers that are no right HTTP, or break off: what they say counts, at the create and at a poll."""

import asyncio
import gzip
import json
import socket
import struct
from collections.abc import Callable
from typing import Final, cast

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.openai.answers import BROKEN_OFF, Fault, Reply, read_create, read_poll
from streams.openai.broken_http import HEADERS_MAX, RawAnswer, raw_answer
from streams.openai.client import reply_of, whole_answer
from streams.openai.kept_handler import KEPT_BYTES_MAX, KeptAnswer, KeptHandler
from streams.openai.transport import _reading
from streams.provider import Accepted, AskAgain, Rejected, Seen, Unknown
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.misbehaving import RESPONSE_ID, Mischief, completed, response, serving
from tests.unit.streams.workers.openai_calls import connected, created

pytestmark = pytest.mark.usefixtures("no_proxy")

QUEUED, ENDED = json.dumps(response()).encode(), json.dumps(completed()).encode()
REFUSED = json.dumps({"error": {"code": "slow_down", "message": "no"}}).encode()


def head(*lines: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join((status, "content-type: application/json", *lines, "", "")).encode()


def sized(body: bytes, *sizes: object) -> bytes:
    return head(*(f"content-length: {size}" for size in sizes)) + body


def chunked(body: bytes, *lines: str, end: bytes = b"\r\n0\r\n\r\n", size: int = 0) -> bytes:
    return head("transfer-encoding: chunked", *lines) + b"%x\r\n" % (size or len(body)) + body + end


def sent(*pieces: bytes, then: Mischief = server.close) -> Mischief:
    async def send(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)  # So that each piece comes alone.
        await then(writer)

    return send


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


FORMS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "a length one too short": lambda body: sized(body, len(body) - 1),
    "a length inside the id": lambda body: sized(body, 20),
    "a length of 0": lambda body: sized(body, 0),
    "a length twice": lambda body: sized(body, len(body), len(body)),
    "two lengths": lambda body: sized(body, len(body), 5),
    "a list of lengths": lambda body: sized(body, f"{len(body)}, {len(body)}"),
    "a negative length": lambda body: sized(body, -1),
    "no number as length": lambda body: sized(body, "abc"),
    "an empty length": lambda body: sized(body, ""),
    "a length too long": lambda body: sized(body, len(body) + 100),
    "a length beyond numbers": lambda body: sized(body, 10**30),
    "a length and chunks": lambda body: chunked(body, f"content-length: {len(body)}"),
    "chunks without an end": lambda body: chunked(body, end=b""),
    "a size of a chunk that is too small": lambda body: chunked(body, size=len(body) - 10),
    "chunks that end in LF": lambda body: head("transfer-encoding: chunked") + b"%x\n%s\n0\n\n" % (len(body), body),
    "no chunks where chunks are announced": lambda body: head("transfer-encoding: chunked") + body,
    "a header without a colon": lambda body: head("nonsense", f"content-length: {len(body)}") + body,
    "a space before a colon": lambda body: head("x-a : b", f"content-length: {len(body)}") + body,
    "a header with NUL": lambda body: head("x-a: b\0c", f"content-length: {len(body)}") + body,
    "300 headers": lambda body: head(*(f"x-{n}: {n}" for n in range(300)), f"content-length: {len(body)}") + body,
    "a body of a 204": lambda body: head(status="HTTP/1.1 204 No Content") + body,
    "a version in lower case": lambda body: head(status="http/1.1 200 OK") + body,
    "another version": lambda body: head(status="HTTP/2 200") + body,
    "packed, and a length too short": lambda body: head("content-encoding: gzip", "content-length: 60") + gzip.compress(
        body
    ),
}  # fmt: skip


def asked(mischief: Mischief, timeout_ms: int = 5_000, *, poll: bool = False) -> Reply:
    async def scenario() -> Reply:
        async with serving(mischief) as state, connected(state.base_url, timeout_ms) as client:
            reply = await (client.retrieve(RESPONSE_ID) if poll else created(client, timeout_ms=timeout_ms))
            assert len(state.requests) == 1
            return reply

    return asyncio.run(scenario())


@pytest.mark.parametrize("form", FORMS)
def test_an_acceptance_is_understood(form: str) -> None:
    accepted = read_create(asked(sent(FORMS[form](QUEUED))), 0)
    assert isinstance(accepted, Accepted), accepted
    assert accepted.response_id == RESPONSE_ID


@pytest.mark.parametrize("form", FORMS)
def test_an_end_is_understood(form: str) -> None:
    seen = read_poll(asked(sent(FORMS[form](ENDED)), poll=True), 0, "job_1")
    assert isinstance(seen, Seen), seen
    assert (seen.outcome, seen.body["output"]) == ("completed", completed()["output"])


@pytest.mark.parametrize("form", FORMS)
def test_an_error_is_understood(form: str) -> None:
    refused = read_create(asked(sent(FORMS[form](REFUSED))), 0)
    assert isinstance(refused, Rejected), refused
    assert (refused.cause, refused.code) == ("overloaded", "slow_down")


@pytest.mark.parametrize(
    "pieces",
    [
        (head("transfer-encoding: chunked"), b"%x\r\n" % len(QUEUED), QUEUED[:90]),
        (chunked(QUEUED[:200], size=400),),
        (head("transfer-encoding: chunked"), b"c8\r\n" + QUEUED[:200] + b"\r\nzz\r\n"),
        (sized(QUEUED[:200], len(QUEUED)),),
        (sized(QUEUED[:200], len(QUEUED), 7),),
        (head("location: /v1/responses/" + RESPONSE_ID, "content-length: 90"),),
    ],
)  # fmt: skip
@pytest.mark.parametrize("then", [server.close, reset, server.stall])
def test_an_answer_that_breaks_off_or_stalls_behind_the_id_is_an_acceptance(
    pieces: tuple[bytes, ...], then: Mischief
) -> None:
    if b"location" in pieces[0] and then is server.stall:
        pytest.skip("without a body there is nothing to read before the end of the time")
    accepted = read_create(asked(sent(*pieces, then=then), 400), 0)
    assert isinstance(accepted, Accepted), accepted
    assert accepted.response_id == RESPONSE_ID


@pytest.mark.parametrize("piece", [chunked(ENDED, end=b""), sized(ENDED, len(ENDED) + 9)])
def test_an_end_whose_answer_never_ends_is_seen(piece: bytes) -> None:
    seen = read_poll(asked(sent(piece, then=server.stall), 400, poll=True), 0, "job_1")
    assert isinstance(seen, Seen), seen
    assert seen.outcome == "completed"


def test_what_is_kept_of_a_connection_is_of_its_last_call_alone() -> None:
    async def scenario() -> tuple[bytes, bytes, bytes]:
        handler = KeptHandler(asyncio.get_running_loop())
        handler.set_response_params()
        first = KeptAnswer(handler, handler.requests)
        handler.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{")
        kept = first.content
        handler.set_response_params()
        second = KeptAnswer(handler, handler.requests)
        handler.data_received(b"HTTP/1.1 204 No\r\n\r\n")
        return kept, first.content, second.content

    assert asyncio.run(scenario()) == (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{", b"", b"HTTP/1.1 204 No\r\n\r\n",
    )  # fmt: skip


def test_what_is_kept_is_bounded() -> None:
    async def scenario() -> bytes:
        handler = KeptHandler(asyncio.get_running_loop())
        handler.set_response_params(read_until_eof=True)
        handler.data_received(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * KEPT_BYTES_MAX)
        handler.data_received(b"y")
        return handler.kept

    kept = asyncio.run(scenario())
    assert len(kept) == KEPT_BYTES_MAX
    assert kept.endswith(b"x")


@pytest.mark.parametrize("then", [server.close, reset])
def test_the_head_of_a_200_alone_proves_nothing(then: Mischief) -> None:
    """It was taken or it was not; there is nothing by which to ask. A webhook may still bring it."""
    unknown = read_create(asked(sent(sized(b"", 900), then=then)), 0)
    assert unknown == Unknown(BROKEN_OFF)


def test_the_head_of_a_202_alone_proves_that_it_was_taken() -> None:
    unknown = read_create(asked(sent(head("content-length: 900", status="HTTP/1.1 202 Accepted"))), 0)
    assert isinstance(unknown, Unknown)
    assert unknown.taken


@pytest.mark.parametrize("then", [server.close, reset, server.stall])
@pytest.mark.parametrize(
    ("line", "cause"), [("429 Too Many", "limited"), ("401 No", "account"), ("503 No\r\nretry-after: 7", "overloaded")]
)
def test_the_head_of_a_refusal_alone_is_a_refusal(line: str, cause: str, then: Mischief) -> None:
    head_alone = head("content-length: 90", status=f"HTTP/1.1 {line}")
    refused = read_create(asked(sent(head_alone, then=then), 400), 0)
    assert isinstance(refused, Rejected), refused
    assert refused.cause == cause


@pytest.mark.parametrize("piece", [sized(ENDED[:-30], len(ENDED)), sized(ENDED[:-30], len(ENDED), 3), sized(b"", 9)])
def test_a_poll_that_breaks_off_is_repeated(piece: bytes) -> None:
    assert read_poll(asked(sent(piece), poll=True), 0, "job_1") == AskAgain(BROKEN_OFF)


@pytest.mark.parametrize("bytes_of", [b"\x00\x00\x12\x04", b"SSH-2.0-x\r\n", b"HTTP/1.1 2OO OK\r\n\r\n{}", b"{}"])
def test_what_is_no_answer_is_of_unknown_outcome(bytes_of: bytes) -> None:
    reply = asked(sent(bytes_of))
    assert isinstance(reply, Fault)
    assert isinstance(read_create(reply, 0), Unknown)


@pytest.mark.parametrize("others", [HEADERS_MAX - 1, HEADERS_MAX, KEPT_BYTES_MAX // 4])
def test_only_the_first_lines_of_a_head_are_headers(others: int) -> None:
    said = raw_answer(b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * others + b"location: x\r\n\r\n{}")
    assert said is not None
    assert (len(said.headers), said.body) == (HEADERS_MAX, b"{}")
    assert (said.headers[-1] == (b"location", b"x")) is (others < HEADERS_MAX)


def test_what_came_before_the_end_of_the_time_never_raises() -> None:
    class Unreadable:
        @property
        def content(self) -> bytes:
            raise RuntimeError("it can't be read")

    async def scenario() -> Reply:
        async def stalls() -> httpx2.Response:
            reading = _reading()
            reading.connected, reading.kept = True, cast("KeptAnswer", Unreadable())
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        return await reply_of(stalls, 0.01, whole_answer)

    # CPython 3.11.2 names no cause.
    assert asyncio.run(scenario()) in [
        Fault("timeout", f"TimeoutError{cause}") for cause in ("", " from CancelledError")
    ]


@given(st.binary(max_size=400))
def test_any_bytes_can_be_read(content: bytes) -> None:
    raw_answer(content)
    said = raw_answer(b"HTTP/1.1 200 OK\r\n\r\n" + content)
    assert said == RawAnswer(200, (), content)
    chunks = raw_answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503\nTransfer-Encoding: chunked\n\n" + content)
    assert chunks is not None
    assert chunks.status == 503


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
def test_right_chunks_are_what_they_hold(chunks: list[bytes]) -> None:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    said = raw_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed)
    assert said is not None
    assert said.body == b"".join(chunks)
