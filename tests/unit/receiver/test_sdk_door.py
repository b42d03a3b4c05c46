"""The OpenAI-compatible door, called by the official Python SDK: only its base URL and key are set."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from receiver.limits import Limits
from receiver.sdk.door import response_id_of
from runtime.door import submission_sha256
from schemas.base import InlineBody
from schemas.jobs import CancelRequested, JobSubmitted
from schemas.requests import Submit
from schemas.results import JobResult, Reason, Timings
from tests.unit.receiver.door import NOW_MS, Door, with_door
from tests.unit.receiver.reads import MemoryReads

ASKED: dict[str, Any] = {"model": "gpt-5.2", "input": "Say hello.", "background": True}
MESSAGE = {
    "id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
    "content": [{"type": "output_text", "text": "Hi.", "annotations": [], "logprobs": []}],
}  # fmt: skip
USAGE = {
    "input_tokens": 36, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}, "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 64}, "total_tokens": 123,
}  # fmt: skip
QUICK = Limits(appear_s=0.1, cancelled_s=0.1)

Story = Callable[[Door, AsyncOpenAI], Awaitable[None]]


@asynccontextmanager
async def sdk(door: Door, **options: Any) -> AsyncIterator[AsyncOpenAI]:
    """The SDK as a caller has it; strict, so that it refuses any object of the wrong shape."""
    options = {"max_retries": 0, "_strict_response_validation": True, **options}
    async with AsyncOpenAI(base_url=f"{door.url}/v1", api_key="any", **options) as client:
        yield client


def with_sdk(story: Story, reads: MemoryReads | None = None, limits: Limits = QUICK, **options: Any) -> None:
    async def run(door: Door) -> None:
        async with sdk(door, **options) as client:
            await story(door, client)

    with_door(run, reads=reads, limits=limits)


def submitted(door: Door) -> list[JobSubmitted]:
    return [fact for fact in door.publisher.landed if isinstance(fact, JobSubmitted)]


def result_of(outcome: str, response: dict[str, Any] | None = None, reason: Reason | None = None) -> JobResult:
    body = None if response is None else InlineBody(value=response)
    return JobResult(
        id="r", at_ms=NOW_MS, job_id="j", tenant="default", outcome=outcome, response=body, reason=reason, model="gpt-5.2",
        timings=Timings(submitted_at_ms=NOW_MS, finished_at_ms=NOW_MS),
    )  # fmt: skip


def provided(**changed: Any) -> dict[str, Any]:
    """An object of the provider's, as it retrieved it."""
    return {
        "id": "resp_provider", "object": "response", "created_at": 1, "status": "completed", "model": "gpt-5.2-2026-01-01",
        "output": [MESSAGE], "usage": USAGE, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "completed_at": 2, "metadata": {"job": "j", "attempt": "1", "tenant": "default", "mine": "kept"}, **changed,
    }  # fmt: skip


def test_a_create_is_in_the_log_before_it_is_answered_queued() -> None:
    async def story(door: Door, client: AsyncOpenAI) -> None:
        raw = await client.responses.with_raw_response.create(
            **ASKED, metadata={"mine": "kept"}, instructions="Be short.", reasoning={"effort": "low"}
        )
        response = raw.parse()
        assert (response.status, response.model, response.background) == ("queued", "gpt-5.2", True)
        assert (response.metadata, response.instructions) == ({"mine": "kept"}, "Be short.")
        assert response.reasoning is not None
        assert response.reasoning.effort == "low"
        assert (response.created_at, response.output, response.output_text) == (NOW_MS // 1000, [], "")
        assert len(response.id) == len("resp_") + 48
        assert raw.request_id is not None
        assert raw.request_id.startswith("req_")
        (fact,) = submitted(door)
        assert door.publisher.acked == [fact]
        assert (fact.job_id, fact.door, fact.model) == (response.id, "http", "gpt-5.2")
        assert isinstance(fact.request, InlineBody)
        assert fact.request.value == {
            **ASKED, "metadata": {"mine": "kept"}, "instructions": "Be short.", "reasoning": {"effort": "low"},
        }  # fmt: skip

    with_sdk(story)


def test_nothing_is_promised_while_the_log_does_not_acknowledge() -> None:
    async def story(door: Door, client: AsyncOpenAI) -> None:
        door.publisher.away = True
        with pytest.raises(openai.InternalServerError) as raised:
            await client.responses.create(**ASKED)
        assert (raised.value.status_code, raised.value.code) == (503, "log_unavailable")
        assert raised.value.response.headers["retry-after"] == "2"

    with_sdk(story)


REFUSED: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "in the foreground": ({"background": False}, "background", "send background: true"),
    "streamed": ({"stream": True}, "stream", "poll"),
    "not stored": ({"store": False}, "store", "leave store out"),
    "in a conversation": ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
    "after a response of somebody else's": ({"previous_response_id": "resp_x"}, "previous_response_id", "your own"),
    "without a model": ({"model": None}, "model", "Missing required parameter"),
    "with a model that is no text": ({"model": 7}, "model", "Missing required parameter"),
    "with our metadata": ({"metadata": {"job": "x"}}, "metadata.job", "set by Backstop"),
    "with too much metadata": ({"metadata": {str(n): "x" for n in range(14)}}, "metadata", "13 pairs"),
    "with metadata that is no text": ({"metadata": {"n": 1}}, "metadata.n", "string values"),
}


@pytest.mark.parametrize(("changed", "param", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_supported_is_refused_as_openai_would_and_says_what_to_do(
    changed: dict[str, Any], param: str | None, says: str
) -> None:
    async def story(door: Door, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as raised:
            await client.responses.create(**{**ASKED, **changed})
        error = raised.value
        assert (error.type, error.param, error.code) == ("invalid_request_error", param, None)
        assert says in error.message
        assert isinstance(error.body, dict)
        assert set(error.body) == {"message", "type", "param", "code"}
        assert error.request_id is not None
        assert door.publisher.landed == []

    with_sdk(story, MemoryReads())


def test_background_left_out_is_refused_too() -> None:
    async def story(door: Door, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="background: true"):
            await client.responses.create(model="gpt-5.2", input="x")
        with pytest.raises(openai.NotFoundError, match="background responses only"):
            await client.chat.completions.create(model="gpt-5.2", messages=[])
        with pytest.raises(openai.NotFoundError, match="background responses only"):
            await client.models.list()

    with_sdk(story)


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [(b"{", {}, 400), (b"[]", {}, 400), (b"x", {"Content-Type": "text/plain"}, 400),
     (b"{}", {"Idempotency-Key": "a b"}, 400), (b" " * 2_001, {}, 413)],
)  # fmt: skip
def test_bodies_that_are_none_hear_openais_errors(body: bytes, headers: dict[str, str], expected: int) -> None:
    async def story(door: Door, _client: AsyncOpenAI) -> None:
        sent = {"Content-Type": "application/json", **headers}
        status, document, response = await door.call("POST", "/v1/responses", data=body, headers=sent)
        assert (status, set(document)) == (expected, {"error"})
        assert set(document["error"]) == {"message", "type", "param", "code"}
        assert response.headers["x-request-id"].startswith("req_")

    with_sdk(story, limits=Limits(submit_bytes_max=2_000))


def test_a_response_is_there_right_after_its_create() -> None:
    reads = MemoryReads()

    async def story(door: Door, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**ASKED, metadata={"mine": "kept"})
        assert await client.responses.retrieve(created.id) == created
        reads.away = True
        assert (await client.responses.retrieve(created.id)).status == "queued", "what we took we know ourselves"
        with pytest.raises(openai.InternalServerError) as raised:
            await client.responses.retrieve("resp_unknown")
        assert raised.value.code == "reads_unavailable"
        reads.away = False
        door.clock[0] += 601_000
        with pytest.raises(openai.NotFoundError, match=f"Response with id '{created.id}' not found"):
            await client.responses.retrieve(created.id)
        (fact,) = submitted(door)
        reads.add("default", created.id, status="running", submitted_at_ms=NOW_MS, request_sha256=fact.request_sha256)
        running = await client.responses.retrieve(created.id)
        assert running == created.model_copy(update={"status": "in_progress"}), "the row wins, and shows the same"

    with_sdk(story, reads)


def test_a_response_that_another_process_took_is_waited_for() -> None:
    reads = MemoryReads()

    class Appearing(MemoryReads):
        asked = 0

        async def job(self, tenant: str, job_id: str) -> Any:
            self.asked += 1
            return await reads.job(tenant, job_id) if self.asked > 3 else None

    reads.add("default", "resp_elsewhere")

    async def story(_door: Door, client: AsyncOpenAI) -> None:
        assert (await client.responses.retrieve("resp_elsewhere")).status == "queued"

    with_sdk(story, Appearing(), Limits())


def test_an_idempotency_key_names_the_response_across_the_sdks_own_repeats() -> None:
    async def story(door: Door, client: AsyncOpenAI) -> None:
        key = {"Idempotency-Key": "order-17"}
        first = await client.responses.create(**ASKED, extra_headers=key)
        again = await client.responses.create(**ASKED, extra_headers=key)
        assert first == again
        assert first.id == response_id_of("order-17", "default")
        with pytest.raises(openai.ConflictError) as raised:
            await client.with_options(max_retries=2).responses.create(**{**ASKED, "input": "other"}, extra_headers=key)
        assert raised.value.code == "idempotency_key_reused"
        assert raised.value.response.headers["x-should-retry"] == "false"
        assert raised.value.request.headers["x-stainless-retry-count"] == "0", "and so it was sent once"
        assert len(submitted(door)) == 1

    with_sdk(story)


def test_the_form_of_a_derived_response_id_never_changes() -> None:
    assert response_id_of("order-17", "default") == "resp_439078c0fc814aada9e2cbc9f15cddd64b00e7a9424e0833"
    assert response_id_of("order-17", "acme") != response_id_of("order-17", "default")


def test_the_sdks_repeat_without_a_key_is_the_same_response() -> None:
    async def story(door: Door, client: AsyncOpenAI) -> None:
        door.publisher.hold()  # lands, and nobody acknowledges: the SDK hears 503, twice, and repeats
        with pytest.raises(openai.InternalServerError):
            await client.with_options(max_retries=1).responses.create(**ASKED)
        door.publisher.release()
        landed = submitted(door)
        assert len(landed) == 2
        assert len({fact.id for fact in landed}) == 1, "the fold knows the second for what it is"
        fresh = await client.responses.create(**ASKED)
        assert fresh.id != landed[0].job_id, "a call of its own is a response of its own"

    with_sdk(story, limits=Limits(publish_s=0.1, appear_s=0.1, retry_after_s=1))


def test_equal_calls_whose_answers_were_lost_find_a_response_each() -> None:
    async def repeated(door: Door, number: int, **changed: Any) -> str:
        headers = {"x-stainless-retry-count": str(number)}
        _, document, _ = await door.call("POST", "/v1/responses", json={**ASKED, **changed}, headers=headers)
        return str(document["id"])

    async def story(door: Door, client: AsyncOpenAI) -> None:
        first, second = [(await client.responses.create(**ASKED)).id for _ in range(2)]
        assert [await repeated(door, 1), await repeated(door, 1)] == [first, second]
        assert [await repeated(door, 2), await repeated(door, 2)] == [first, second]
        third = await repeated(door, 1)
        assert third not in {first, second}, "its first attempt never came here"
        assert await repeated(door, 1, input="other") not in {first, second, third}
        door.clock[0] += 901_000
        assert await repeated(door, 3) not in {first, second, third}, "too late to be a repeat"

    with_sdk(story)


def ended(reads: MemoryReads, response_id: str, result: JobResult, asked: dict[str, Any] = ASKED) -> None:
    sha256 = submission_sha256(Submit(request=asked))
    reads.add(
        "default", response_id, status=result.outcome, submitted_at_ms=NOW_MS, request_sha256=sha256, result=result
    )


def test_the_end_is_the_providers_object_under_our_id_without_our_metadata() -> None:
    reads = MemoryReads()

    async def story(door: Door, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**ASKED)
        ended(reads, created.id, result_of("completed", provided()))
        response = await client.responses.retrieve(created.id)
        assert (response.id, response.status, response.output_text) == (created.id, "completed", "Hi.")
        assert response.metadata == {"mine": "kept"}
        assert response.created_at == created.created_at
        assert response.model == "gpt-5.2-2026-01-01"
        assert response.usage is not None
        assert response.usage.total_tokens == 123
        # An ended response is not cancelled; its end is shown, and nothing is written.
        assert (await client.responses.cancel(created.id)).status == "completed"
        assert len(door.publisher.landed) == 1

    with_sdk(story, reads)


ENDS: dict[str, tuple[JobResult, str, str | None]] = {
    "failed": (result_of("failed", provided(status="failed", output=[], error={"code": "server_error", "message": "x"})),
               "failed", "server_error"),
    "failed here": (result_of("failed", None, Reason(code="retries_spent", message="No.")), "failed", "retries_spent"),
    "incomplete": (result_of("incomplete", provided(status="incomplete", incomplete_details={"reason": "max_output_tokens"})),
                   "incomplete", None),
    "cancelled": (result_of("cancelled", None, Reason(code="cancelled")), "cancelled", None),
    "expired": (result_of("expired", None, Reason(code="deadline", message="The deadline has passed.")), "failed", "expired"),
    "rejected": (result_of("rejected", None, Reason(code="insufficient_quota", message="No.")), "failed",
                 "insufficient_quota"),
}  # fmt: skip


@pytest.mark.parametrize(("result", "status", "code"), ENDS.values(), ids=ENDS)
def test_each_end_has_its_status_and_a_failure_its_code(result: JobResult, status: str, code: str | None) -> None:
    reads = MemoryReads()
    asked = {**ASKED, "metadata": {"mine": "kept"}}

    async def story(door: Door, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**asked)
        ended(reads, created.id, result, asked)
        response = await client.responses.retrieve(created.id)
        assert (response.status, response.error and response.error.code) == (status, code)
        assert response.metadata == {"mine": "kept"}, "also where the provider never had it"

    # Codes of our own are none of the SDK's list, which strict validation would refuse; the SDK itself takes them.
    with_sdk(story, reads, _strict_response_validation=False)


def test_a_cancel_is_a_fact_and_answers_with_the_end() -> None:
    reads = MemoryReads()

    class Ending(MemoryReads):
        asked = 0

        async def job(self, tenant: str, job_id: str) -> Any:
            self.asked += 1
            if self.asked == 4:
                ended(reads, job_id, result_of("cancelled", None))
            return await reads.job(tenant, job_id)

    async def story(door: Door, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**ASKED)
        assert (await client.responses.cancel(created.id)).status == "cancelled"
        (cancel,) = [fact for fact in door.publisher.acked if isinstance(fact, CancelRequested)]
        assert cancel.job_id == created.id
        with pytest.raises(openai.NotFoundError):
            await client.responses.cancel("resp_unknown")

    with_sdk(story, Ending(), Limits(appear_s=0.1))


def test_a_cancel_whose_end_takes_longer_answers_with_what_is() -> None:
    async def story(_door: Door, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**ASKED)
        assert (await client.responses.cancel(created.id)).status == "queued"

    with_sdk(story, MemoryReads())


def test_a_deleted_response_is_gone_for_its_readers_and_cancelled_if_it_was_open() -> None:
    async def story(door: Door, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**ASKED)
        _, document, _ = await door.call("DELETE", f"/v1/responses/{created.id}")
        assert document == {"id": created.id, "object": "response", "deleted": True}
        assert [type(fact) for fact in door.publisher.landed] == [JobSubmitted, CancelRequested]
        for ask in (client.responses.retrieve, client.responses.cancel, client.responses.delete,
                    client.responses.input_items.list):  # fmt: skip
            with pytest.raises(openai.NotFoundError):
                await ask(created.id)
        key = {"Idempotency-Key": "order-17"}
        keyed = await client.responses.create(**ASKED, extra_headers=key)
        await client.responses.delete(keyed.id)
        with pytest.raises(openai.ConflictError):
            await client.responses.create(**ASKED, extra_headers=key)

    with_sdk(story, MemoryReads())


def test_what_was_asked_for_is_listed_in_pages() -> None:
    items = [{"role": "user", "content": str(number)} for number in range(5)] + [
        {"type": "function_call_output", "call_id": "c", "output": "x"}
    ]

    async def story(_door: Door, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**{**ASKED, "input": items})
        page = await client.responses.input_items.list(created.id, limit=2)
        assert page.data[0].type == "function_call_output", "newest first"
        assert page.has_more
        everything = [item.id async for item in client.responses.input_items.list(created.id, limit=2)]
        assert len(set(everything)) == 6
        ascending = await client.responses.input_items.list(created.id, order="asc")
        assert [item.id for item in ascending.data] == everything[::-1]
        first = ascending.data[0]
        assert first.type == "message"
        assert first.content[0].text == "0"
        with pytest.raises(openai.BadRequestError):
            await client.responses.input_items.list(created.id, after="nothing")
        with pytest.raises(openai.BadRequestError):
            await client.responses.input_items.list(created.id, limit=101)
        text = await client.responses.create(**ASKED)
        (only,) = (await client.responses.input_items.list(text.id)).data
        assert only.content[0].text == "Say hello."

    with_sdk(story)


def test_a_conversation_goes_on_from_the_callers_own_response() -> None:
    reads = MemoryReads()

    async def story(door: Door, client: AsyncOpenAI) -> None:
        first = await client.responses.create(**ASKED)
        reads.add("default", first.id, status="running")
        with pytest.raises(openai.BadRequestError, match="not ended yet"):
            await client.responses.create(**ASKED, previous_response_id=first.id)
        ended(reads, first.id, result_of("completed", provided()))
        reads.owners["resp_provider"] = ("default", first.id)
        second = await client.responses.create(**ASKED, previous_response_id=first.id)
        assert second.previous_response_id == first.id
        fact = submitted(door)[-1]
        assert isinstance(fact.request, InlineBody)
        assert isinstance(fact.request.value, dict)
        assert fact.request.value["previous_response_id"] == "resp_provider", "the provider knows its own id only"
        assert (await client.responses.retrieve(second.id)).previous_response_id == first.id
        with pytest.raises(openai.BadRequestError, match="your own"):
            await client.responses.create(**ASKED, previous_response_id="resp_provider")

    with_sdk(story, reads)


def test_sessions_and_deadlines_come_as_headers() -> None:
    async def story(door: Door, client: AsyncOpenAI) -> None:
        headers = {"Backstop-Session": "chat-1", "Backstop-Timeout-Ms": "60000", "Backstop-Retries-Max": "0"}
        await client.responses.create(**ASKED, extra_headers=headers)
        (fact,) = submitted(door)
        assert (fact.session_id, fact.deadline_at_ms, fact.policy.retries_max) == ("chat-1", NOW_MS + 60_000, 0)
        for name, value in (("Backstop-Session", "a b"), ("Backstop-Timeout-Ms", "1"), ("Backstop-Timeout-Ms", "x")):
            with pytest.raises(openai.BadRequestError):
                await client.responses.create(**ASKED, extra_headers={name: value})

    with_sdk(story)


def test_reads_that_would_stream_are_refused() -> None:
    async def story(_door: Door, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**ASKED)
        with pytest.raises(openai.BadRequestError, match="poll"):
            await client.responses.retrieve(created.id, stream=True)
        with pytest.raises(openai.BadRequestError, match="include"):
            await client.responses.retrieve(created.id, include=["message.output_text.logprobs"])

    with_sdk(story)
