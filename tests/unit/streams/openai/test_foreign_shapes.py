"""What servers and proxies put around a response: it is the same response, at the create and at a poll."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

import orjson
import pytest

from streams.openai import large_json
from streams.openai.answers import ProviderAnswer, Reply, read_create, read_poll
from streams.openai.bounded import SHAPE
from streams.openai.foreign_json import NOT_JSON, parse, unwrapped
from streams.provider import Accepted, Rejected, Seen, Unknown
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.misbehaving import RESPONSE_ID, completed, response
from tests.unit.streams.workers.openai_calls import connected, create_against, created

pytestmark = pytest.mark.usefixtures("no_proxy")

Around = Callable[[dict[str, Any]], bytes]


def text(value: Any) -> str:
    return json.dumps(value)


def events(*bodies: dict[str, Any]) -> str:
    return "".join(f"event: {body['type']}\ndata: {text(body)}\n\n" for body in bodies)


AROUND: Final[dict[str, Around]] = {
    "nothing": lambda body: text(body).encode(),
    "a byte order mark": lambda body: b"\xef\xbb\xbf" + text(body).encode(),
    "UTF-16": lambda body: text(body).encode("utf-16"),
    "a comment of a load balancer": lambda body: f"{text(body)}\n<!-- pod 7 -->".encode(),
    "the end of a chunk": lambda body: f"{text(body)}0\r\n\r\n".encode(),
    "a prefix against scripts": lambda body: f")]}}',\n{text(body)}".encode(),
    "spaces that keep the connection alive": lambda body: f"{' ' * 40}\n{text(body)}".encode(),
    "an envelope response": lambda body: text({"response": body}).encode(),
    "an envelope data": lambda body: text({"status": "success", "data": body}).encode(),
    "an envelope result": lambda body: text({"success": True, "errors": [], "result": body}).encode(),
    "an envelope list": lambda body: text({"object": "list", "data": [body]}).encode(),
    "a list": lambda body: text([body]).encode(),
    "a text": lambda body: text(text(body)).encode(),
    "events": lambda body: events(
        {"type": "response.created", "response": response()}, {"type": "response.x", "response": body}
    ).encode(),
    "events with CR": lambda body: events({"type": "x", "response": body}).replace("\n", "\r").encode(),
    "lines": lambda body: f"{text(response())}\n{text(body)}\n".encode(),
    "another kind": lambda body: text({**body, "object": "background.Response"}).encode(),
    "no kind": lambda body: text({name: item for name, item in body.items() if name != "object"}).encode(),
    "no type of content": lambda body: text(body).encode(),
}


def reply_to_create(content: bytes, content_type: str = "application/json") -> Reply:
    return create_against(server.answer(200, content, content_type=content_type))[0]


@pytest.mark.parametrize("around", AROUND)
def test_an_acceptance_is_understood_whatever_stands_around_it(around: str) -> None:
    answer = read_create(reply_to_create(AROUND[around](response()), "" if "type" in around else "text/plain"), 0)
    assert isinstance(answer, Accepted)
    assert (answer.response_id, answer.status, answer.end) == (RESPONSE_ID, "queued", None)


@pytest.mark.parametrize("around", AROUND)
def test_an_end_is_understood_whatever_stands_around_it(around: str) -> None:
    body = unwrapped(parse(AROUND[around](completed())))
    seen = read_poll(ProviderAnswer(200, {}, body), 0, "job_1")
    assert isinstance(seen, Seen)
    assert (seen.outcome, seen.body["output"]) == ("completed", completed()["output"])


@pytest.mark.parametrize("around", [name for name in AROUND if name not in ("another kind", "no kind")])
def test_a_large_end_is_understood_whatever_stands_around_it(around: str) -> None:
    body = completed(instructions="A" * (large_json.BYTES_MAX + 1))
    head, whole = large_json.read(AROUND[around](body), SHAPE)
    assert head is not None
    seen = read_poll(ProviderAnswer(200, {}, unwrapped(orjson.loads(head)), whole), 0, "job_1")
    assert isinstance(seen, Seen)
    assert (seen.outcome, orjson.loads(whole)) == ("completed", body)


@pytest.mark.parametrize(
    "content",
    [
        text({"error": {"code": "slow_down", "message": "no"}}).encode(),
        b"\xef\xbb\xbf" + text({"error": {"code": "slow_down", "message": "no"}}).encode(),
        events({"type": "error", "code": "slow_down", "message": "no", "sequence_number": 1}).encode(),
        events({"type": "error", "error": {"code": "slow_down", "message": "no"}}).encode(),
        f"{text({'error': {'code': 'slow_down', 'message': 'no'}})}\n<!-- pod 7 -->".encode(),
    ],
)
def test_an_error_is_understood_whatever_stands_around_it(content: bytes) -> None:
    refused = read_create(reply_to_create(content), 0)
    assert isinstance(refused, Rejected)
    assert (refused.cause, refused.code, refused.message) == ("overloaded", "slow_down", "no")


@pytest.mark.parametrize(
    "content", [b"<html>{}</html>", b"12 monkeys", b"OK", b"data:", b"{", b"[", b"'{}'", b"null and void"]
)
def test_other_texts_are_no_json(content: bytes) -> None:
    assert parse(content) is NOT_JSON


@pytest.mark.parametrize(
    ("told", "response_id"),
    [
        ({"id": 90_001}, "90001"), ({"id": "a b"}, "a b"), ({"id": "=/?#;%2F\"'<"}, "=/?#;%2F\"'<"),
        ({"id": None, "response_id": "resp_2"}, "resp_2"), ({"id": "x" * 1_024}, "x" * 1_024),
    ],
)  # fmt: skip
def test_an_id_is_opaque(told: dict[str, Any], response_id: str) -> None:
    accepted = read_create(ProviderAnswer(202, {}, response(**told)), 0)
    assert isinstance(accepted, Accepted)
    assert accepted.response_id == response_id


def test_an_answer_that_holds_only_the_id_is_an_acceptance() -> None:
    assert read_create(ProviderAnswer(202, {}, {"id": "resp_2"}), 0) == Accepted("resp_2", status="unknown")


@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        ("COMPLETED", "completed"), ("Succeeded", "completed"), ("done", "completed"), ("In Progress", "running"),
        ("in-progress", "running"), ("PENDING", "running"), ("not_started", "running"), ("Timed Out", "failed"),
        ("Canceled", "cancelled"), ("archived", "odd"), ("", "odd"),
    ],
)  # fmt: skip
def test_a_status_is_understood_in_the_words_of_other_servers(word: str, outcome: str) -> None:
    seen = read_poll(ProviderAnswer(200, {}, response(status=word)), 0, "job_1")
    assert isinstance(seen, Seen)
    assert seen.outcome == outcome


def broken_off(status: int, content: bytes) -> Reply:
    async def mischief(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n" % status)
        writer.write(content)
        await writer.drain()
        writer.close()

    return create_against(mischief)[0]


def test_a_connection_that_breaks_behind_the_id_has_told_the_acceptance() -> None:
    content = orjson.dumps({"id": RESPONSE_ID, "object": "response", "status": "completed", "output": ["A" * 400]})
    accepted = read_create(broken_off(200, content[:200]), 0)
    assert accepted == Accepted(RESPONSE_ID, status="completed")  # The output is missing, so a poll brings the end.
    assert isinstance(read_create(broken_off(200, content[:12]), 0), Unknown)


def test_a_connection_that_breaks_within_a_refusal_has_told_it() -> None:
    refused = read_create(broken_off(429, b'{"error": {"mess'), 0)
    assert isinstance(refused, Rejected)
    assert refused.cause == "limited"


def test_an_end_that_lacks_only_the_mark_of_its_end_is_whole() -> None:
    accepted = read_create(broken_off(200, orjson.dumps(completed())), 0)
    assert isinstance(accepted, Accepted)
    assert accepted.end is not None


def test_a_stream_is_read_with_any_line_ends() -> None:
    async def scenario(content: bytes) -> Reply:
        stream = server.answer(200, content, content_type="text/event-stream")
        async with server.serving(stream) as state, connected(state.base_url) as client:
            return await created(client, {"model": "m", "input": "Hi", "stream": True})

    body = {"type": "response.completed", "response": completed()}
    for content in (events(body), events(body).replace("\n", "\r"), events(body).rstrip("\n")):
        answer = read_create(asyncio.run(scenario(content.encode())), 0)
        assert isinstance(answer, Accepted)
        assert answer.end is not None
