"""A large answer of the provider is read whole, and holds up no other call of the worker while it is."""

import asyncio
import itertools
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from schemas.base import BlobBody
from schemas.codec import canonical
from streams.provider import Accepted, CallLimits, Rejected, StreamEnded, TooMuch
from tests.hostile.pauses import least_pause_s
from tests.hostile.test_huge_answers import MIB, followed, plain
from tests.support.accounts import account_at, provider_of
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.calling import Bench, calling, poll
from tests.unit.streams.workers.misbehaving import serving

PAUSE_S_MAX: Final = 0.100
WAIT_S: Final = 60
ROOM_BYTES: Final = CallLimits().answer_bytes_max - 4_096
TOKEN: Final = b'{"token":"hello","logprob":-0.123456,"bytes":[104,101,108]},'


def text(unit: bytes) -> bytes:
    return b'[{"text":"' + unit * (ROOM_BYTES // len(unit)) + b'"}]'


OUTPUTS: Final[dict[str, Callable[[], bytes]]] = {
    "a text": lambda: text(b"A"),
    "a text of escapes": lambda: text(b'\\n\\"'),
    "a text of four-byte characters": lambda: text("😀".encode()),
    "empty lists": lambda: b"[" + b"[]," * 950_000 + b"[]]",
    "log probabilities": lambda: b"[" + TOKEN * 180_000 + TOKEN[:-1] + b"]",
    "names": lambda: b"[{" + b",".join(b'"%x":0' % n for n in range(900_000)) + b"}]",
}
"""Each is nearly as large as an answer may be, or has nearly as many values. Made by the test, not by each process that
collects it.
"""


def whole(output: bytes, **changes: Any) -> bytes:
    """A completed response with this output in the middle."""
    return orjson.dumps({**server.completed(**changes), "output": 0}).replace(b'"output":0', b'"output":' + output, 1)


def sent(body: bytes, **headers: Any) -> server.Mischief:
    def pieces() -> Iterator[bytes]:
        return (body[at : at + MIB // 8] for at in range(0, len(body), MIB // 8))

    return plain(pieces, **headers)


def polling(bench: Bench) -> Callable[[], Awaitable[None]]:
    """Polls one response more, and awaits its fact."""
    numbers = itertools.count(1)

    async def ask() -> None:
        number = next(numbers)
        bench.commands.publish(poll(f"resp_{number}"))
        await bench.facts(number, WAIT_S)

    return ask


@pytest.mark.parametrize("name", OUTPUTS)
def test_no_answer_holds_up_the_worker(name: str, tmp_path: Path) -> None:
    body = whole(OUTPUTS[name]())

    async def scenario() -> tuple[float, Any]:
        async with calling(tmp_path, sent(body), poll_timeout_ms=60_000) as bench:
            pause_s = await least_pause_s(PAUSE_S_MAX, polling(bench))
            fact: Any = bench.publisher.landed[-1]
            assert isinstance(fact.response, BlobBody)
            assert bytes(await bench.blobs.get(fact.response.sha256)) == canonical(orjson.loads(body))
            return pause_s, fact

    pause_s, fact = asyncio.run(scenario())
    assert (fact.outcome, fact.usage.total_tokens, fact.job_id) == ("completed", 123, "job_1")
    assert pause_s <= PAUSE_S_MAX


@pytest.mark.parametrize("packing", ["gzip", "gzip twice"])
def test_no_packed_answer_holds_up_the_worker(packing: str, tmp_path: Path) -> None:
    beginning = orjson.dumps(server.response(status="in_progress"))[:-1] + b', "more": "'
    once = zlib.compress(beginning + b"A" * 63 * MIB + b'"}', wbits=31)
    body = once if packing == "gzip" else zlib.compress(once, wbits=31)

    async def scenario() -> tuple[float, Any]:
        sends = plain(lambda: iter([body]), content_encoding=", ".join(["gzip"] * len(packing.split())))
        async with calling(tmp_path, sends, poll_timeout_ms=60_000) as bench:
            pause_s = await least_pause_s(PAUSE_S_MAX, polling(bench))
            return pause_s, bench.publisher.landed[-1]

    pause_s, fact = asyncio.run(scenario())
    # An answer that is packed twice is not unpacked, so it can't be read: the fold gives the response time.
    assert (fact.outcome, fact.code) == (("running", None) if packing == "gzip" else ("missing", "no_response_object"))
    assert pause_s <= PAUSE_S_MAX


EVENT_BYTES: Final = 15 * MIB


def event(kind: str, output: bytes) -> bytes:
    response = whole(output, background=False)
    return b'{"type":"%b","sequence_number":0,"response":%b}' % (kind.encode(), response)


def events(*data: bytes) -> server.Mischief:
    stream = b"".join(b"data: %b\n\n" % one for one in data)
    return sent(stream, content_type="text/event-stream")


def large_text() -> bytes:
    return b'[{"text":"' + "😀".encode() * (EVENT_BYTES // 4) + b'"}]'


@pytest.mark.parametrize("output", [large_text, OUTPUTS["empty lists"]], ids=["a text", "empty lists"])
def test_a_large_event_at_the_end_of_a_stream_ends_it(output: Callable[[], bytes]) -> None:
    assert followed(events(event("response.completed", output()))) == StreamEnded(0)


def test_a_large_event_that_is_not_at_the_end_is_not_published_in_part() -> None:
    data = event("response.output_item.done", OUTPUTS["empty lists"]())
    assert followed(events(data)) == TooMuch("event_too_large")


def test_a_create_that_streams_a_large_end_has_all_of_it_and_holds_up_nothing() -> None:
    data = event("response.completed", large_text())

    async def scenario() -> tuple[float, Any]:
        async with serving(events(data)) as state:
            provider = provider_of(account_at(state.base_url), lambda: 0)
            seen: list[Any] = []

            async def create() -> None:
                request = {"model": "m", "stream": True}
                seen.append(await provider.create(request, job_id="job_1", attempt=1, tenant="acme", timeout_ms=60_000))

            try:
                return await least_pause_s(PAUSE_S_MAX, create), seen[-1]
            finally:
                await provider.close()

    pause_s, accepted = asyncio.run(scenario())
    assert isinstance(accepted, Accepted)
    assert accepted.end is not None
    assert accepted.end.whole == canonical(orjson.loads(data)["response"])
    assert pause_s <= PAUSE_S_MAX


def test_a_large_refusal_is_read_as_a_small_one_is() -> None:
    error = {"error": {"code": "invalid_prompt", "message": "No."}, "more": "A" * 3 * MIB}

    async def scenario() -> Any:
        async with serving(server.answer(400, error)) as state:
            provider = provider_of(account_at(state.base_url), lambda: 0)
            try:
                return await provider.create({"model": "m"}, job_id="j", attempt=1, tenant="t", timeout_ms=60_000)
            finally:
                await provider.close()

    refused = asyncio.run(scenario())
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.message) == ("invalid_prompt", "No.")
