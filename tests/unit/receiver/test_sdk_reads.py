"""Reads, cancels and deletions at the OpenAI-compatible API, called by the official Python SDK."""

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from receiver.limits import Limits
from schemas.base import InlineBody
from schemas.jobs import CancelRequested, JobSubmitted
from schemas.results import JobResult, Reason
from tests.unit.receiver.ingress import NOW_MS, Ingress
from tests.unit.receiver.reads import MemoryReads
from tests.unit.receiver.sdk_caller import ASKED, ended, provided, result_of, submitted, with_sdk


def test_the_end_is_the_providers_object_under_our_id_without_our_metadata() -> None:
    reads = MemoryReads()

    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
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
        assert len(ingress.publisher.landed) == 1

    with_sdk(story, reads)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"job": "j", "attempt": "1", "tenant": "t"}, {"mine": "kept"}),
        ({}, {"job": "17", "attempt": "1", "tenant": "x"}),
        ({"backstop_job": "j", "backstop_attempt": "1", "backstop_tenant": "t"}, {"job": "17", "tenant": "x"}),
    ],
    ids=["before the prefix", "none, at a server that keeps none", "with it"],
)
def test_our_metadata_is_ours_by_its_prefix_and_the_rest_is_the_callers(
    ours: dict[str, str], theirs: dict[str, str]
) -> None:
    reads = MemoryReads()

    async def story(_ingress: Ingress, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**ASKED)
        ended(reads, created.id, result_of("completed", provided(metadata={**ours, **theirs})))
        assert (await client.responses.retrieve(created.id)).metadata == theirs

    with_sdk(story, reads)


ENDS: dict[str, tuple[JobResult, str, str | None]] = {
    "failed": (
        result_of("failed", provided(status="failed", output=[], error={"code": "server_error", "message": "x"})),
        "failed", "server_error"),
    "failed here": (result_of("failed", None, Reason(code="retries_spent", message="No.")), "failed", "retries_spent"),
    "incomplete": (
        result_of("incomplete", provided(status="incomplete", incomplete_details={"reason": "max_output_tokens"})),
        "incomplete", None),
    "cancelled": (result_of("cancelled", None, Reason(code="cancelled")), "cancelled", None),
    "expired": (result_of("expired", None, Reason(code="deadline", message="The deadline has passed.")), "failed",
                "expired"),
    "rejected": (result_of("rejected", None, Reason(code="insufficient_quota", message="No.")), "failed",
                 "insufficient_quota"),
}  # fmt: skip


@pytest.mark.parametrize(("result", "status", "code"), ENDS.values(), ids=ENDS)
def test_each_end_has_its_status_and_a_failure_its_code(result: JobResult, status: str, code: str | None) -> None:
    reads = MemoryReads()
    asked = {**ASKED, "metadata": {"mine": "kept"}}

    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
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

    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**ASKED)
        assert (await client.responses.cancel(created.id)).status == "cancelled"
        (cancel,) = [fact for fact in ingress.publisher.acked if isinstance(fact, CancelRequested)]
        assert cancel.job_id == created.id
        with pytest.raises(openai.NotFoundError):
            await client.responses.cancel("resp_unknown")

    with_sdk(story, Ending(), Limits(appear_s=0.1))


def test_a_cancel_whose_end_takes_longer_answers_with_what_is() -> None:
    async def story(_ingress: Ingress, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**ASKED)
        assert (await client.responses.cancel(created.id)).status == "queued"

    with_sdk(story, MemoryReads())


def test_a_deleted_response_is_gone_for_its_readers_and_cancelled_if_it_was_open() -> None:
    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**ASKED)
        _, document, _ = await ingress.call("DELETE", f"/v1/responses/{created.id}")
        assert document == {"id": created.id, "object": "response", "deleted": True}
        assert [type(fact) for fact in ingress.publisher.landed] == [JobSubmitted, CancelRequested]
        for ask in (client.responses.retrieve, client.responses.cancel, client.responses.input_items.list):
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

    async def story(_ingress: Ingress, client: AsyncOpenAI) -> None:
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
        assert first.content[0].text == "0"  # type: ignore[union-attr]
        with pytest.raises(openai.BadRequestError):
            await client.responses.input_items.list(created.id, after="nothing")
        with pytest.raises(openai.BadRequestError):
            await client.responses.input_items.list(created.id, limit=101)
        text = await client.responses.create(**ASKED)
        (only,) = (await client.responses.input_items.list(text.id)).data
        assert only.content[0].text == "Say hello."  # type: ignore[index, union-attr]

    with_sdk(story)


def test_a_conversation_goes_on_from_the_callers_own_response() -> None:
    reads = MemoryReads()

    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
        first = await client.responses.create(**ASKED)
        reads.add("default", first.id, status="running")
        with pytest.raises(openai.BadRequestError, match="not ended yet"):
            await client.responses.create(**ASKED, previous_response_id=first.id)
        ended(reads, first.id, result_of("completed", provided()))
        reads.owners["resp_provider"] = ("default", first.id)
        second = await client.responses.create(**ASKED, previous_response_id=first.id)
        assert second.previous_response_id == first.id
        fact = submitted(ingress)[-1]
        assert isinstance(fact.request, InlineBody)
        assert isinstance(fact.request.value, dict)
        assert fact.request.value["previous_response_id"] == "resp_provider", "the provider knows its own id only"
        assert (await client.responses.retrieve(second.id)).previous_response_id == first.id
        with pytest.raises(openai.BadRequestError, match="your own"):
            await client.responses.create(**ASKED, previous_response_id="resp_provider")

    with_sdk(story, reads)


def test_sessions_and_deadlines_come_as_headers() -> None:
    async def story(ingress: Ingress, client: AsyncOpenAI) -> None:
        headers = {"Backstop-Session": "chat-1", "Backstop-Timeout-Ms": "60000", "Backstop-Retries-Max": "0"}
        await client.responses.create(**ASKED, extra_headers=headers)
        (fact,) = submitted(ingress)
        assert (fact.session_id, fact.deadline_at_ms, fact.policy.retries_max) == ("chat-1", NOW_MS + 60_000, 0)
        for name, value in (("Backstop-Session", "a b"), ("Backstop-Timeout-Ms", "1"), ("Backstop-Timeout-Ms", "x")):
            with pytest.raises(openai.BadRequestError):
                await client.responses.create(**ASKED, extra_headers={name: value})

    with_sdk(story)


def test_reads_that_would_stream_are_refused() -> None:
    async def story(_ingress: Ingress, client: AsyncOpenAI) -> None:
        created = await client.responses.create(**ASKED)
        with pytest.raises(openai.BadRequestError, match="poll"):
            await client.responses.retrieve(created.id, stream=True)
        with pytest.raises(openai.BadRequestError, match="poll"):
            await client.get(f"/responses/{created.id}?starting_after=3", cast_to=object)
        included = await client.responses.retrieve(created.id, include=["message.output_text.logprobs"])
        assert included == created, "what the create included is shown"

    with_sdk(story)
