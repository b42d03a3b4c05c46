"""Creates at the OpenAI-compatible API, called by the official Python SDK with only its base URL and key set."""

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from receiver.limits import Limits
from receiver.responses_api.handlers import response_id_of
from schemas.base import InlineBody
from tests.unit.receiver.ingress import NOW_MS, SUBMIT, Ingress, with_ingress
from tests.unit.receiver.reads import MemoryReads
from tests.unit.receiver.sdk_caller import ASKED, provided, result_of, sdk, submitted, with_sdk


def test_a_create_is_in_the_log_before_it_is_answered_queued() -> None:
    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
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
        (fact,) = submitted(ingress)
        assert ingress.publisher.acked == [fact]
        assert (fact.job_id, fact.ingress, fact.model) == (response.id, "http", "gpt-5.2")
        assert isinstance(fact.request, InlineBody)
        assert fact.request.value == {
            **ASKED, "metadata": {"mine": "kept"}, "instructions": "Be short.", "reasoning": {"effort": "low"},
        }  # fmt: skip

    with_sdk(story)


def test_nothing_is_promised_while_the_log_does_not_acknowledge() -> None:
    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
        ingress.publisher.away = True
        with pytest.raises(openai.InternalServerError) as raised:
            await client.responses.create(**ASKED)
        assert (raised.value.status_code, raised.value.code) == (503, "log_unavailable")
        assert raised.value.response.headers["retry-after"] == "2"

    with_sdk(story)


REFUSED: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "in the foreground, where nothing waits": ({"background": False}, "background", "send background: true"),
    "half in the background": ({"background": "yes"}, "background", "must be true"),
    "streamed, where nothing streams": ({"stream": True}, "stream", "poll"),
    "streamed by half": ({"stream": "yes"}, "stream", "poll"),
    "not stored": ({"store": False}, "store", "omit store"),
    "in a conversation": ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
    "after a foreign response": ({"previous_response_id": "resp_x"}, "previous_response_id", "your own"),
    "without a model": ({"model": None}, "model", "Missing required parameter"),
    "with a model that is no text": ({"model": 7}, "model", "Missing required parameter"),
    "with our metadata": ({"metadata": {"backstop_job": "x"}}, "metadata.backstop_job", "set by Backstop"),
    "with 14 pairs of metadata": (
        {"metadata": {str(n): "x" for n in range(14)}},
        "metadata",
        "14 pairs and may have 13",
    ),
    "with 16 pairs of metadata": (
        {"metadata": {str(n): "x" for n in range(16)}},
        "metadata",
        "16 pairs and may have 13",
    ),
    "with metadata that is no text": ({"metadata": {"n": 1}}, "metadata.n", "string values"),
}


@pytest.mark.parametrize(("changed", "param", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_supported_is_refused_as_openai_would_and_says_what_to_do(
    changed: dict[str, Any], param: str | None, says: str
) -> None:
    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as raised:
            await client.responses.create(**{**ASKED, **changed})
        error = raised.value
        assert (error.type, error.param, error.code) == ("invalid_request_error", param, None)
        assert says in error.message
        assert isinstance(error.body, dict)
        assert set(error.body) == {"message", "type", "param", "code"}
        assert error.request_id is not None
        assert ingress.publisher.landed == []

    with_sdk(story, MemoryReads())


def test_unsupported_endpoints_tell_what_to_do_instead() -> None:
    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="use_responses_api=True"):
            await client.chat.completions.create(model="gpt-5.2", messages=[])
        with pytest.raises(openai.APIStatusError, match="previous_response_id") as raised:
            await client.responses.compact(model="gpt-5.2", input="x")
        assert (raised.value.status_code, raised.value.type) == (405, "invalid_request_error")
        with pytest.raises(openai.APIStatusError, match="usage"):
            await client.responses.input_tokens.count(model="gpt-5.2", input="x")
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        status, document, _ = await ingress.call("GET", "/v1/responses", headers=upgrade)
        assert (status, "stream: true" in document["error"]["message"]) == (405, True)

    with_sdk(story)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/files/file-1/content"),
        ("GET", "/v1/threads"),
    ],
)
def test_clients_without_a_header_of_an_sdk_hear_the_same(method: str, path: str) -> None:
    async def story(ingress: Ingress) -> None:
        status, document, _ = await ingress.call(method, path)
        assert status == 404
        assert "POST /v1/responses" in document["error"]["message"]
        assert (await ingress.call(method, "/v1/jobs/none/none"))[1]["code"] == "not_found", "Backstop's own form"

    with_ingress(story)


def test_the_models_are_those_that_the_operator_names() -> None:
    async def story(ingress: Ingress) -> None:
        async with sdk(ingress) as client:
            assert [model.id async for model in client.models.list()] == ["gpt-5.2", "gpt-5.2-mini"]
            assert (await client.models.retrieve("gpt-5.2-mini")).object == "model"
            with pytest.raises(openai.NotFoundError, match="BACKSTOP_MODELS") as raised:
                await client.models.retrieve("other")
            assert raised.value.code == "model_not_found"

    with_ingress(story, models="gpt-5.2, gpt-5.2-mini")


def test_a_response_that_has_just_begun_is_the_callers_own_and_has_not_ended() -> None:
    reads = MemoryReads()

    async def story(_ingress: Ingress, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**ASKED)
        with pytest.raises(openai.BadRequestError, match="has not ended yet"):
            await client.responses.create(**ASKED, previous_response_id=created.id)

    with_sdk(story, reads)


def test_any_job_can_be_read_as_a_response() -> None:
    reads = MemoryReads()

    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
        assert (await ingress.submit({**SUBMIT, "job_id": "order-17"}))[0] == 202
        assert (await client.responses.retrieve("order-17")).status == "queued"
        result = result_of("completed", provided(background=True))
        reads.add("default", "order-17", status="completed", submitted_at_ms=NOW_MS, result=result)
        response = await client.responses.retrieve("order-17")
        assert (response.id, response.output_text, response.background) == ("order-17", "Hi.", True)
        await client.responses.delete("order-17")
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("order-17")

    with_sdk(story, reads)


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [(b"{", {}, 400), (b"[]", {}, 400), (b"x", {"Content-Type": "text/plain"}, 400),
     (b"{}", {"Idempotency-Key": "a b"}, 400), (b" " * 2_001, {}, 413)],
)  # fmt: skip
def test_bodies_that_are_none_hear_openais_errors(body: bytes, headers: dict[str, str], expected: int) -> None:
    async def story(ingress: Ingress, _client: AsyncOpenAI) -> None:
        sent = {"Content-Type": "application/json", **headers}
        status, document, response = await ingress.call("POST", "/v1/responses", data=body, headers=sent)
        assert (status, set(document)) == (expected, {"error"})
        assert set(document["error"]) == {"message", "type", "param", "code"}
        assert response.headers["x-request-id"].startswith("req_")

    with_sdk(story, limits=Limits(submit_bytes_max=2_000))


def test_a_response_is_there_right_after_its_create() -> None:
    reads = MemoryReads()

    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**ASKED, metadata={"mine": "kept"})
        assert await client.responses.retrieve(created.id) == created
        reads.away = True
        assert (await client.responses.retrieve(created.id)).status == "queued", "what we took we know ourselves"
        with pytest.raises(openai.InternalServerError) as raised:
            await client.responses.retrieve("resp_unknown")
        assert raised.value.code == "reads_unavailable"
        reads.away = False
        ingress.clock[0] += 601_000
        with pytest.raises(openai.NotFoundError, match=f"Response with id '{created.id}' not found"):
            await client.responses.retrieve(created.id)
        (fact,) = submitted(ingress)
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

    async def story(_ingress: Ingress, client: AsyncOpenAI) -> None:
        assert (await client.responses.retrieve("resp_elsewhere")).status == "queued"

    with_sdk(story, Appearing(), Limits())


def test_an_idempotency_key_names_the_response_across_the_sdks_own_repeats() -> None:
    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
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
        assert len(submitted(ingress)) == 1

    with_sdk(story)


def test_the_form_of_a_derived_response_id_never_changes() -> None:
    assert response_id_of("order-17", "default") == "resp_439078c0fc814aada9e2cbc9f15cddd64b00e7a9424e0833"
    assert response_id_of("order-17", "acme") != response_id_of("order-17", "default")


def test_the_sdks_repeat_without_a_key_is_the_same_response() -> None:
    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
        ingress.publisher.hold()  # no acknowledgement: the SDK is answered 503, twice, and repeats
        with pytest.raises(openai.InternalServerError):
            await client.with_options(max_retries=1).responses.create(**ASKED)
        ingress.publisher.release()
        landed = submitted(ingress)
        assert len(landed) == 2
        assert len({fact.id for fact in landed}) == 1, "the fold knows the second for what it is"
        fresh = await client.responses.create(**ASKED)
        assert fresh.id != landed[0].job_id, "a call of its own is a response of its own"

    with_sdk(story, limits=Limits(publish_s=0.1, appear_s=0.1, retry_after_s=1))


def test_equal_calls_whose_answers_were_lost_find_a_response_each() -> None:
    async def repeated(ingress: Ingress, number: int, **changed: Any) -> str:
        headers = {"x-stainless-retry-count": str(number)}
        _, document, _ = await ingress.call("POST", "/v1/responses", json={**ASKED, **changed}, headers=headers)
        return str(document["id"])

    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
        first, second = [(await client.responses.create(**ASKED)).id for _ in range(2)]
        assert [await repeated(ingress, 1), await repeated(ingress, 1)] == [first, second]
        assert [await repeated(ingress, 2), await repeated(ingress, 2)] == [first, second]
        third = await repeated(ingress, 1)
        assert third not in {first, second}, "its first attempt never came here"
        assert await repeated(ingress, 1, input="other") not in {first, second, third}
        ingress.clock[0] += 901_000
        assert await repeated(ingress, 3) not in {first, second, third}, "too late to be a repeat"

    with_sdk(story)
