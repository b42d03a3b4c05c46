"""A client with the official Python SDK, for tests of the OpenAI-compatible API."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from openai import AsyncOpenAI

from receiver.limits import Limits
from schemas.base import InlineBody
from schemas.jobs import JobSubmitted
from schemas.requests import Submit
from schemas.results import JobResult, Reason, Timings
from streams.submission import submission_sha256
from tests.unit.receiver.ingress import NOW_MS, Ingress, with_ingress
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

Story = Callable[[Ingress, AsyncOpenAI], Awaitable[None]]


@asynccontextmanager
async def sdk(ingress: Ingress, **options: Any) -> AsyncIterator[AsyncOpenAI]:
    """The SDK's client; strict, so that it rejects objects of the wrong shape."""
    options = {"max_retries": 0, "_strict_response_validation": True, **options}
    async with AsyncOpenAI(base_url=f"{ingress.url}/v1", api_key="any", **options) as client:
        yield client


def with_sdk(story: Story, reads: MemoryReads | None = None, limits: Limits = QUICK, **options: Any) -> None:
    async def run(ingress: Ingress) -> None:
        async with sdk(ingress, **options) as client:
            await story(ingress, client)

    with_ingress(run, reads=reads, limits=limits)


def submitted(ingress: Ingress) -> list[JobSubmitted]:
    return [fact for fact in ingress.publisher.landed if isinstance(fact, JobSubmitted)]


def result_of(outcome: str, response: dict[str, Any] | None = None, reason: Reason | None = None) -> JobResult:
    body = None if response is None else InlineBody(value=response)
    return JobResult(
        id="r", at_ms=NOW_MS, job_id="j", tenant="default", outcome=outcome, response=body, reason=reason,
        model="gpt-5.2", timings=Timings(submitted_at_ms=NOW_MS, finished_at_ms=NOW_MS),
    )  # fmt: skip


def provided(**changed: Any) -> dict[str, Any]:
    """A response object of the provider, as a retrieve returns it."""
    return {
        "id": "resp_provider", "object": "response", "created_at": 1, "status": "completed",
        "model": "gpt-5.2-2026-01-01",
        "output": [MESSAGE], "usage": USAGE, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "completed_at": 2, "metadata": {"job": "j", "attempt": "1", "tenant": "default", "mine": "kept"}, **changed,
    }  # fmt: skip


def ended(reads: MemoryReads, response_id: str, result: JobResult, asked: dict[str, Any] = ASKED) -> None:
    sha256 = submission_sha256(Submit(request=asked))
    reads.add(
        "default", response_id, status=result.outcome, submitted_at_ms=NOW_MS, request_sha256=sha256, result=result
    )
