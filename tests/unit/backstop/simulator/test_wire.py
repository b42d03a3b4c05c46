"""The wire format, seen by the official SDK in strict mode: it refuses what OpenAI would not send."""

import asyncio
from typing import Any

import openai
import pytest

from tests.support.waiting import eventually
from tests.unit.backstop.simulator.harness import NEVER_S, World, profile, world


def test_a_background_response_is_queued_runs_and_completes() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(metadata={"sim_queue_s": "0.2", "sim_run_s": "0.2"}, prompt_cache_key="k")
            assert (created.status, created.background, created.output, created.usage) == ("queued", True, [], None)
            assert created.id.startswith("resp_")
            assert len(created.id) == 53
            assert created.prompt_cache_key == "k"
            ended = await w.ended(created.id)
            assert (ended.status, ended.output_text) == ("completed", "Echo: Hello")
            assert ended.metadata == created.metadata
            assert ended.completed_at is not None
            assert ended.usage is not None
            assert ended.usage.total_tokens == ended.usage.input_tokens + ended.usage.output_tokens
            states = [line["state"] for line in await w.ledger("truth")]
            assert states == ["queued", "in_progress", "completed"]

    asyncio.run(case())


@pytest.mark.parametrize(
    ("fault", "status", "code", "reason"),
    [
        ("run_failed", "failed", "server_error", None),
        ("run_failed=invalid_prompt", "failed", "invalid_prompt", None),
        ("run_failed_usage", "failed", "server_error", None),
        ("run_image_safety", "failed", "image_content_policy_violation", None),
        ("run_incomplete", "incomplete", None, "max_output_tokens"),
        ("run_incomplete=content_filter", "incomplete", None, "content_filter"),
    ],
)
def test_every_other_end_passes_strict_validation(fault: str, status: str, code: str, reason: str) -> None:
    async def case() -> None:
        async with world() as w:
            ended = await w.ended((await w.create(fault=fault)).id)
            assert ended.status == status
            assert (ended.error.code if ended.error else None) == code
            assert (ended.incomplete_details.reason if ended.incomplete_details else None) == reason
            assert (ended.usage is not None) == (status == "incomplete" or fault == "run_failed_usage")
            assert ended.completed_at is None

    asyncio.run(case())


def test_cancelling_twice_gives_the_same_final_object() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(metadata={"sim_run_s": NEVER_S})
            first = await w.sdk.responses.cancel(created.id)
            again = await w.sdk.responses.cancel(created.id)
            assert first.status == "cancelled"
            assert first == again
            assert (await w.sdk.responses.retrieve(created.id)).usage is None
            (webhook,) = await w.webhooks(1)
            assert webhook.event["type"] == "response.cancelled"

    asyncio.run(case())


def test_cancelling_a_completed_response_shows_its_end() -> None:
    async def case() -> None:
        async with world() as w:
            ended = await w.ended((await w.create()).id)
            assert (await w.sdk.responses.cancel(ended.id)).status == "completed"

    asyncio.run(case())


@pytest.mark.parametrize(
    ("answer", "error"),
    [("400", openai.BadRequestError), ("404", openai.NotFoundError), ("409", openai.ConflictError)],
)
def test_cancelling_a_completed_response_may_be_refused(answer: str, error: type[Exception]) -> None:
    async def case() -> None:
        async with world(profile(cancel_of_ended=answer, error_404="bare")) as w:
            ended = await w.ended((await w.create()).id)
            with pytest.raises(error):
                await w.sdk.responses.cancel(ended.id)

    asyncio.run(case())


def test_a_deleted_response_is_gone() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(metadata={"sim_run_s": NEVER_S})
            await w.sdk.responses.delete(created.id)
            with pytest.raises(openai.NotFoundError) as caught:
                await w.sdk.responses.retrieve(created.id)
            assert f"'{created.id}'" in caught.value.message
            assert (await w.ledger("truth"))[-1]["state"] == "deleted"
            assert (await w.control("GET", "stats"))["open"] == 0

    asyncio.run(case())


def test_input_items_are_listed_in_pages() -> None:
    async def case() -> None:
        async with world() as w:
            turns = [{"role": "user", "content": f"turn {number}"} for number in range(5)]
            created = await w.create(input=turns)
            page = await w.sdk.responses.input_items.list(created.id, limit=2, order="asc")
            assert page.has_more
            everything: list[Any] = [item async for item in page]
            assert [item.content[0].text for item in everything] == [f"turn {number}" for number in range(5)]
            newest = await w.sdk.responses.input_items.list(created.id, limit=1)
            assert newest.data[0].id == everything[-1].id

    asyncio.run(case())


def test_a_plain_request_is_answered_when_it_has_completed() -> None:
    async def case() -> None:
        async with world() as w:
            answer = await w.create(background=False)
            assert (answer.status, answer.background, answer.output_text) == ("completed", False, "Echo: Hello")
            with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
                await w.sdk.responses.cancel(answer.id)
            assert w.receiver.got == []

    asyncio.run(case())


def test_a_wrong_key_is_refused_and_another_project_sees_nothing() -> None:
    async def case() -> None:
        async with world(api_keys=("sk-test", "sk-other")) as w:
            created = await w.create()
            status, body, headers = await w.raw("GET", f"/responses/{created.id}", key="sk-wrong")
            assert (status, set(body["error"])) == (401, {"message", "type", "param", "code"})
            assert body["error"]["code"] == "invalid_api_key"
            assert headers["x-request-id"].startswith("req_")
            assert (await w.raw("GET", f"/responses/{created.id}", key="sk-other"))[0] == 404
            assert (await w.raw("GET", f"/responses/{created.id}"))[0] == 200

    asyncio.run(case())


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "x"}, "model"),
        ({"model": "m", "input": 3}, "input"),
        ({"model": "m", "input": "x", "colour": "red"}, "colour"),
        ({"model": "m", "input": "x", "background": True, "store": False}, "store"),
        ({"model": "m", "input": "x", "service_tier": "luxury"}, "service_tier"),
        ({"model": "m", "input": "x", "metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"model": "m", "input": "x", "metadata": {"k": "v" * 513}}, "metadata"),
        ({"model": "m", "input": "x", "metadata": {"k": 1}}, "metadata.k"),
        ({"model": "m", "input": "x", "metadata": {"sim_fault": "create_acept_reset"}}, "metadata"),
        ({"model": "m", "input": "x", "text": {"format": 3}}, "text.format"),
    ],
)
def test_a_bad_request_is_told_its_parameter(body: dict[str, object], param: str) -> None:
    async def case() -> None:
        async with world() as w:
            status, answer, _ = await w.raw("POST", "/responses", json=body)
            assert (status, answer["error"]["param"]) == (400, param)
            assert await w.ledger("creates") == []

    asyncio.run(case())


def test_what_is_not_json_is_refused() -> None:
    async def case() -> None:
        async with world() as w:
            assert (await w.raw("POST", "/responses", data=b"{"))[0] == 400
            assert (await w.raw("POST", "/responses", data=b"[]"))[0] == 400

    asyncio.run(case())


def test_an_output_has_the_size_asked_for() -> None:
    async def case() -> None:
        async with world() as w:
            ended = await w.ended((await w.create(metadata={"sim_output_bytes": "300000"})).id)
            assert len(ended.output_text) == 300_000

    asyncio.run(case())


def test_a_response_is_gone_after_its_retention() -> None:
    async def case() -> None:
        async with world(profile(store_false="short", retention_short_s=0.3)) as w:
            created = await w.create(store=False)
            assert (await w.sdk.responses.retrieve(created.id)).store is False  # type: ignore[attr-defined]
            await eventually(lambda: _is_gone(w, created.id))
            assert (await w.ledger("truth"))[-1]["state"] == "expired"

    asyncio.run(case())


async def _is_gone(w: World, response_id: str) -> bool:
    return (await w.raw("GET", f"/responses/{response_id}"))[0] == 404


def test_there_is_no_list_of_responses() -> None:
    async def case() -> None:
        async with world() as w:
            status, body, _ = await w.raw("GET", "/responses")
            assert (status, body["error"]["type"]) == (404, "invalid_request_error")

    asyncio.run(case())


def test_of_a_large_input_only_the_beginning_is_kept() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(input="z" * 100_000, instructions="Be brief.")
            (item,) = (await w.sdk.responses.input_items.list(created.id)).data
            assert item.content[0].text == "z" * 2000  # type: ignore[index, union-attr]
            ended = await w.ended(created.id)
            assert (ended.output_text, ended.instructions) == ("Echo: " + "z" * 2000, "Be brief.")
            assert ended.usage is not None
            assert ended.usage.input_tokens == 25_000

    asyncio.run(case())


def test_an_idempotency_key_is_ignored_unless_the_profile_honours_it() -> None:
    async def case(idempotency: str) -> bool:
        async with world(profile(idempotency=idempotency)) as w:
            first = await w.create(extra_headers={"Idempotency-Key": "k1"})
            second = await w.create(extra_headers={"Idempotency-Key": "k1"})
            lines = await w.ledger("creates")
            assert {line["idempotency_key"] for line in lines} == {"k1"}
            assert len(lines) == (1 if first.id == second.id else 2)
            return first.id == second.id

    assert not asyncio.run(case("ignored"))
    assert asyncio.run(case("honoured"))
