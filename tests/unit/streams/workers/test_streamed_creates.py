"""A create that asks for a stream: one POST, read until the response is known, then closed."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from schemas.base import InlineBody
from schemas.jobs import AttemptAccepted, AttemptUnknown
from streams.openai.answers import ProviderAnswer, Reply, read_create
from streams.openai.foreign_json import NOT_JSON
from streams.provider import Accepted, Rejected, Unknown
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.misbehaving import RESPONSE_ID, Mischief, Server, serving
from tests.unit.streams.workers.openai_calls import connected, created
from tests.unit.streams.workers.submitting import create, submitting

STREAMED = {"model": "m", "input": "Hi", "stream": True}
CREATED = {"type": "response.created", "sequence_number": 0, "response": server.response()}


def events(*told: Any, then: Mischief | None = server.close) -> Mischief:
    """A stream of these events, and the fate of the connection after them; None leaves it open."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nx-request-id: req_9\r\n\r\n"
        )
        for event in told:
            writer.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await writer.drain()
        await (then or server.stall)(writer)

    return send


def create_against(mischief: Mischief) -> tuple[Reply, Server]:
    async def scenario() -> tuple[Reply, Server]:
        async with serving(mischief) as state, connected(state.base_url) as client:
            return await created(client, dict(STREAMED), 1_000), state

    return asyncio.run(scenario())


@pytest.mark.parametrize("then", [server.close, server.reset, None], ids=["ends", "breaks", "goes on for ever"])
def test_the_first_event_says_that_it_was_accepted_whatever_comes_after(then: Mischief | None) -> None:
    reply, state = create_against(events({"type": "response.odd"}, CREATED, then=then))
    assert read_create(reply, 0) == Accepted(RESPONSE_ID, "queued", "req_9", streamed=True)
    assert state.posts == len(state.requests) == 1
    assert state.requests[0].json()["stream"] is True


def test_a_provider_that_answers_with_the_object_accepted_it_and_does_not_stream() -> None:
    reply, _ = create_against(server.answer(200, server.response()))
    assert read_create(reply, 0) == Accepted(RESPONSE_ID, "queued", None, streamed=False)


def test_an_object_that_breaks_off_behind_its_id_is_an_acceptance_and_sent_once() -> None:
    reply, state = create_against(server.cut)
    accepted = read_create(reply, 0)
    assert isinstance(accepted, Accepted)
    assert (accepted.response_id, state.posts) == ("resp_1", 1)


@pytest.mark.parametrize(
    "mischief",
    [
        events(), events({"type": "response.created"}), events([1], None),
        events(CREATED | {"response": {}}), events(then=None), events(then=server.reset), server.html(200),
    ],
    ids=["no event", "no response in it", "no objects", "no id", "silence", "reset", "HTML"],
)  # fmt: skip
def test_a_stream_that_does_not_say_so_is_unknown_and_sent_once(mischief: Mischief) -> None:
    reply, state = create_against(mischief)
    assert isinstance(read_create(reply, 0), Unknown), reply
    assert state.posts == len(state.requests) == 1


ERROR = {"code": "rate_limit_exceeded", "message": "Try again in 20 s.", "param": None}


@pytest.mark.parametrize(
    ("told", "body"),
    [
        ({"type": "error", "sequence_number": 1, **ERROR}, {"error": ERROR}),
        ({"type": "error", "error": {"type": "server_error", **ERROR}}, {"error": {"type": "server_error", **ERROR}}),
        ({"error": ERROR}, {"error": ERROR}),
        ({"error": "the queue is full"}, {"error": "the queue is full"}),
        (CREATED | {"type": "response.failed", "response": server.response(status="failed", error=ERROR)},
         server.response(status="failed", error=ERROR)),
        (CREATED | {"type": "response.completed", "response": server.completed()}, server.completed()),
    ],
    ids=["flat", "wrapped", "without a type", "a text", "failed at once", "completed at once"],
)  # fmt: skip
def test_what_is_told_first_is_the_answer(told: Any, body: Any) -> None:
    reply, _ = create_against(events({"type": "keepalive", "sequence_number": 0}, told, then=None))
    assert isinstance(reply, ProviderAnswer)
    assert (reply.status, reply.body, reply.streamed) == (200, body, True)


HELD = CREATED | {"response": server.response(status="in_progress", background=False)}
DONE = {"type": "response.completed", "sequence_number": 9, "response": server.completed() | {"background": False}}


def test_a_server_that_does_not_run_in_the_background_is_heard_to_its_end() -> None:
    delta = {"type": "response.output_text.delta", "delta": "Hi."}
    reply, state = create_against(events(HELD, delta, DONE, then=None))
    assert isinstance(reply, ProviderAnswer)
    assert (reply.body, reply.streamed) == (DONE["response"], True)
    assert state.posts == 1


@pytest.mark.parametrize(
    ("told", "then"),
    [((), server.close), ((), server.reset), ((), None), (({"type": "error", "message": "Sorry."},), None)],
    ids=["ends", "breaks", "is silent", "an error"],
)
def test_what_was_known_before_such_a_stream_broke_is_known(told: tuple[Any, ...], then: Mischief | None) -> None:
    reply, _ = create_against(events(HELD, *told, then=then))
    assert read_create(reply, 0) == Accepted(RESPONSE_ID, "in_progress", "req_9", streamed=True)


def test_a_stream_that_ends_without_an_event_is_reported_as_such() -> None:
    reply, _ = create_against(events({"type": "keepalive"}))
    assert isinstance(reply, ProviderAnswer)
    assert reply.body is NOT_JSON
    assert reply.text == 'the stream ended after 1 events, without a response: data: {"type": "keepalive"}\n\n'
    nothing, _ = create_against(events())
    assert isinstance(nothing, ProviderAnswer)
    assert nothing.text == "the stream ended after 0 events, without a response: "


def test_an_error_event_instead_of_a_response_is_that_error() -> None:
    reply, state = create_against(events({"type": "error", "code": "server_is_overloaded", "message": "Sorry."}))
    read = read_create(reply, 0)
    assert isinstance(read, Rejected)
    assert (read.cause, read.message, state.posts) == ("overloaded", "Sorry.", 1)


def test_a_refusal_is_a_refusal() -> None:
    reply, state = create_against(server.answer(429, {"error": {"code": "insufficient_quota"}}))
    read = read_create(reply, 0)
    assert (getattr(read, "cause", None), state.posts) == ("account", 1)


def test_the_fact_says_whether_it_streams(tmp_path: Path) -> None:
    async def scenario(mischief: Mischief) -> list[Any]:
        async with submitting(tmp_path, mischief) as bench:
            bench.commands.publish(create(request=InlineBody(value=dict(STREAMED))))
            return list(await bench.facts(1))

    (streamed,) = asyncio.run(scenario(events(CREATED)))
    (plain,) = asyncio.run(scenario(server.answer(200, server.response())))
    (unknown,) = asyncio.run(scenario(events()))
    assert isinstance(streamed, AttemptAccepted)
    assert (streamed.stream, plain.stream) == (True, None)
    assert streamed == plain.model_copy(update={"stream": True, "provider_request_id": "req_9"})
    assert isinstance(unknown, AttemptUnknown)
