"""Refusals in the words and shapes of other servers, and locks that pass."""

import asyncio
import json
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstop.simulator.errors import ConfigError
from backstop.simulator.replies import REASONS, SHAPES, parse_reply
from tests.support.waiting import eventually
from tests.unit.backstop.simulator.harness import NEVER_S, profile, world


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("create_locked", 400, ("conversation_locked", "Another process")),
        ("create_queue_full", 400, ('"detail"', "queue is full")),
        ("create_conflict", 409, ("conflict", "Please try again later")),
    ],
)
def test_a_lock_holds_its_job_and_passes_after_a_time(fault: str, status: int, words: tuple[str, ...]) -> None:
    async def case() -> None:
        async with world() as w:
            with pytest.raises(openai.APIStatusError) as caught:
                await w.create(fault=f"{fault}={NEVER_S}")
            assert caught.value.status_code == status
            assert all(word in caught.value.response.text for word in words)
            with pytest.raises(openai.APIStatusError):
                await w.create(attempt="2")  # whatever asks for the job meets the lock
            assert (await w.create(job="job_2")).status == "queued"
            # Each of these creates is told to begin a lock; a job is locked once.
            created = await eventually(lambda: w.create(job="job_3", fault=f"{fault}=0.05"))
            assert created.status == "queued"
            refused = [line["job"] for line in await w.ledger("calls") if line["fault"] == fault]
            assert refused[:3] == ["job_1", "job_1", "job_3"]
            assert len(await w.ledger("creates")) == 2

    asyncio.run(case())


@given(st.text(alphabet="0123456789/abehlmopst_.-", max_size=24) | st.text(max_size=12))
def test_whatever_is_written_is_a_reply_or_an_error_that_says_why(text: str) -> None:
    said = repr(text)
    try:
        reply = parse_reply(text)
    except ConfigError as error:
        said = str(error)
    else:
        assert reply.answer({}).status == reply.status
        assert 200 <= reply.status <= 599
    assert repr(text) in said


@given(
    st.sampled_from(["", *REASONS, "teapot"]),
    st.sampled_from(SHAPES),
    st.sampled_from(["", "both", "header", "text"]),
    st.integers(200, 599),
    st.integers(0, 100_000),
)
def test_a_reply_says_what_it_was_told_to(code: str, shape: str, where: str, status: int, wait_s: int) -> None:
    wait = f"{wait_s}{where.removeprefix('both')}" if where else ""
    reply = parse_reply(f"{status}/{code}/{shape}/{wait}")
    body, told = reply.answer({}).body, reply.error()
    assert (reply.status, reply.shape) == (status, shape)
    assert reply.header_wait_s == (wait_s if where in ("both", "header") else None)
    if shape not in ("empty", "object", "html"):
        assert reply.text() in (body.decode() if shape == "plain" else str(json.loads(body)))
    if code not in ("", "queue_full", "too_large_for_the_limit"):
        assert told["code"] == code


@pytest.mark.parametrize(
    ("spec", "status", "content_type", "body"),
    [
        ("billing_not_active", 429, "application/json", {"error": {"code": "billing_not_active"}}),
        ("500/", 500, "application/json", {"error": {"code": None, "type": "server_error"}}),
        ("503/slow_down/bare", 503, "application/json", {"code": "slow_down"}),
        ("400//detail", 400, "application/json", {"detail": "Bad Request. Please try again later."}),
        ("503//text/30", 503, "application/json", {"error": "Service Unavailable. Retry after 30 seconds."}),
        ("429//message/26text", 429, "application/json", {"message": "Too Many Requests. Retry after 26 seconds."}),
        ("403//problem", 403, "application/problem+json", {"title": "Forbidden", "status": 403}),
        ("529//plain/9header", 529, "text/plain", "Site is overloaded. Please try again later."),
        ("502", 502, "text/html", None),
        ("200/server_error", 200, "application/json", {"error": {"code": "server_error"}}),
        ("200//html", 200, "text/html", None),
        ("200//object", 200, "application/json", {}),
        ("418/teapot/empty", 418, "text/plain", ""),
    ],
)
def test_a_call_may_be_answered_in_any_words(spec: str, status: int, content_type: str, body: Any) -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(
                job="job_0", fault=f"poll_answer={spec} cancel_answer={spec}", metadata={"sim_run_s": NEVER_S}
            )
            asked = {"model": "m", "background": True, "metadata": {"sim_fault": f"create_answer={spec}"}}
            calls = (("", asked), (f"/{created.id}", None), (f"/{created.id}/cancel", None))
            for (path, sent), method in zip(calls, ("POST", "GET", "POST"), strict=True):
                found, text, headers = await w.raw_text(method, f"/responses{path}", json=sent)
                assert found == status
                assert headers["content-type"].startswith(content_type)
                assert ("retry-after" in headers) == (spec.endswith(("/30", "header")))
                if isinstance(body, dict):
                    assert _holds(json.loads(text), body), text
                elif body is not None:
                    assert text == body
            assert len(await w.ledger("creates")) == 1

    asyncio.run(case())


def _holds(found: Any, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return bool(found == wanted)
    return all(key in found and _holds(found[key], value) for key, value in wanted.items())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no_such_code", "is no known code"),
        ("99", "the status must be 200 to 599"),
        ("500//round", "the shape must be one of"),
        ("500///soon", "must be a number of seconds"),
        ("500/a/html/1/2", "more than"),
    ],
)
def test_a_reply_that_cannot_be_read_says_why(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_reply(text)


@pytest.mark.parametrize(
    ("fault", "first"),
    [
        ("create_answer=200/server_error", {"type": "error", "code": "server_error"}),
        ("create_first_event_failed=slow_down", {"type": "response.failed"}),
        ("create_answer=200/slow_down/bare", {"code": "slow_down"}),
    ],
)
def test_a_stream_may_hold_nothing_but_an_error(fault: str, first: dict[str, Any]) -> None:
    async def case() -> None:
        async with world() as w:
            asked = {"model": "m", "background": True, "stream": True, "metadata": {"job": "j", "sim_fault": fault}}
            status, text, headers = await w.raw_text("POST", "/responses", json=asked)
            assert (status, headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
            events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
            assert len(events) == 1
            assert _holds(events[0], first)
            assert len(await w.ledger("creates")) == ("first_event" in fault)

    asyncio.run(case())


def test_open_responses_over_the_limit_may_be_refused_in_other_words() -> None:
    async def case() -> None:
        limits = {"*": {"open_max": 1, "open_max_answer": "queue_full"}}
        async with world(profile(models=limits)) as w:
            await w.create(metadata={"sim_run_s": NEVER_S})
            with pytest.raises(openai.BadRequestError) as caught:
                await w.create(job="job_2")
            assert "queue is full" in caught.value.response.text

    asyncio.run(case())


@pytest.mark.parametrize("conversation", ["conv_1", {"id": "conv_1"}])
def test_a_conversation_is_locked_while_a_response_of_it_is_open(conversation: object) -> None:
    async def case() -> None:
        async with world(profile(conversations_locked=True), strict=False) as w:
            first = await w.create(conversation=conversation, metadata={"sim_run_s": NEVER_S})
            with pytest.raises(openai.BadRequestError) as caught:
                await w.create(job="job_2", conversation="conv_1")
            assert caught.value.code == "conversation_locked"
            assert (await w.create(job="job_3", conversation="conv_2")).status == "queued"
            await w.sdk.responses.cancel(first.id)
            assert (await w.create(job="job_2", conversation="conv_1")).status == "queued"

    asyncio.run(case())
