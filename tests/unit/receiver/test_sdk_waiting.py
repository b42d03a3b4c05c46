"""Creates without `background`, the most common ones: answered at the end, and found again after a lost connection."""

import asyncio
import json
import resource
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from receiver.limits import Limits
from schemas.base import InlineBody
from schemas.jobs import CancelRequested
from schemas.results import JobResult, Reason
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import NOW_MS, Ingress, with_ingress
from tests.unit.receiver.reads import MemoryChanges, MemoryReads
from tests.unit.receiver.sdk_caller import ASKED, provided, result_of, sdk, submitted

QUICK = Limits(appear_s=0.1, waiting_quiet_s=60)
TALKING = Limits(appear_s=0.1, waiting_quiet_s=0.05, waiting_heartbeat_s=0.05, retry_after_s=1)
FOREGROUND = {name: value for name, value in ASKED.items() if name != "background"}


class Stage:
    """A receiver, its read model, and a client."""

    def __init__(self, ingress: Ingress, reads: MemoryReads, changes: MemoryChanges, client: AsyncOpenAI) -> None:
        self.ingress, self.reads, self.changes, self.client = ingress, reads, changes, client

    async def jobs(self, count: int) -> list[str]:
        """The ids of all jobs in the log, once there are that many and as many creates wait."""
        await eventually(lambda: len(submitted(self.ingress)) >= count <= self.changes.watchers, what=f"{count} jobs")
        return [fact.job_id for fact in submitted(self.ingress)]

    def ends(self, job_id: str, result: JobResult | None = None) -> None:
        result = result or result_of("completed", provided(background=True))
        (fact,) = [fact for fact in submitted(self.ingress) if fact.job_id == job_id]
        sha256 = fact.request_sha256
        self.reads.add(
            "default", job_id, status=result.outcome, submitted_at_ms=NOW_MS, request_sha256=sha256, result=result
        )
        self.changes.touch(job_id)


def on_stage(story: Callable[[Stage], Awaitable[None]], limits: Limits = QUICK, **options: Any) -> None:
    reads, changes = MemoryReads(), MemoryChanges()

    async def run(ingress: Ingress) -> None:
        async with sdk(ingress, **options) as client:
            await story(Stage(ingress, reads, changes, client))

    with_ingress(run, reads=reads, changes=changes, limits=limits)


@pytest.mark.parametrize("given", [{}, {"background": False}, {"background": None}], ids=str)
def test_a_create_without_background_is_answered_at_its_end(given: dict[str, Any]) -> None:
    async def story(s: Stage) -> None:
        create = asyncio.create_task(s.client.responses.create(**FOREGROUND, **given, metadata={"mine": "kept"}))
        (job_id,) = await s.jobs(1)
        assert not create.done()
        s.ends(job_id)
        response = await create
        assert (response.id, response.status, response.output_text) == (job_id, "completed", "Hi.")
        assert (response.background, response.metadata) == (False, {"mine": "kept"})
        (fact,) = submitted(s.ingress)
        assert isinstance(fact.request, InlineBody)
        assert "background" not in cast("dict[str, Any]", fact.request.value), "the job is one like any other"
        assert await s.client.responses.retrieve(job_id) == response

    on_stage(story)


@pytest.mark.parametrize("limits", [QUICK, TALKING], ids=["at once", "after bytes against idle proxies"])
def test_the_answer_is_json_however_long_it_took(limits: Limits) -> None:
    async def story(s: Stage) -> None:
        body, first = {**FOREGROUND, "input": "x"}, b""
        async with asyncio.TaskGroup() as group:

            async def ask() -> tuple[aiohttp.ClientResponse, bytes]:
                async with s.ingress.session.post(f"{s.ingress.url}/v1/responses", json=body) as answer:
                    return answer, await answer.read()

            asked = group.create_task(ask())
            (job_id,) = await s.jobs(1)
            if limits is TALKING:
                await asyncio.wait([asked], timeout=0.3)
            s.ends(job_id)
        answer, first = asked.result()
        assert (answer.status, answer.headers["Backstop-Response-Id"]) == (200, job_id)
        assert (first[:2] == b"  ") is (limits is TALKING)
        assert json.loads(first)["id"] == job_id

    on_stage(story, limits)


ENDS: dict[str, tuple[JobResult, type[openai.APIStatusError], int, str]] = {
    "failed at the provider": (
        result_of("failed", provided(status="failed", output=[], error={"code": "server_error", "message": "x"})),
        openai.InternalServerError, 500, "server_error"),
    "refused by the provider": (
        result_of("failed", None, Reason(code="invalid_value", message="No.")), openai.BadRequestError, 400,
        "invalid_value"),
    "a model that is not there": (
        result_of("failed", None, Reason(code="model_not_found", message="No.")), openai.NotFoundError, 404,
        "model_not_found"),
    "limited": (
        result_of("failed", None, Reason(code="rate_limit_exceeded", message="No.")), openai.RateLimitError, 429,
        "rate_limit_exceeded"),
    "the account's": (
        result_of("failed", None, Reason(code="invalid_api_key", message="No.")), openai.InternalServerError, 500,
        "invalid_api_key"),
    "expired": (result_of("expired", None, Reason(code="deadline")), openai.InternalServerError, 504, "expired"),
    "cancelled": (result_of("cancelled", None), openai.BadRequestError, 400, "cancelled"),
    "rejected": (result_of("rejected", None, Reason(code="bad_request")), openai.BadRequestError, 400, "bad_request"),
}  # fmt: skip


@pytest.mark.parametrize("limits", [QUICK, TALKING], ids=["at once", "after bytes against idle proxies"])
@pytest.mark.parametrize(("result", "kind", "status", "code"), ENDS.values(), ids=ENDS)
def test_an_end_that_is_no_answer_is_the_sdks_own_exception_and_is_paid_once(
    result: JobResult, kind: type[openai.APIStatusError], status: int, code: str, limits: Limits
) -> None:
    async def story(s: Stage) -> None:
        create = asyncio.create_task(s.client.responses.create(**FOREGROUND))
        (job_id,) = await s.jobs(1)
        if limits is TALKING:
            await asyncio.wait([create], timeout=0.2)
        s.ends(job_id, result)
        with pytest.raises(kind) as raised:
            await create
        assert (raised.value.status_code, raised.value.code) == (status, code)
        assert raised.value.response.headers["Backstop-Response-Id"] == job_id
        assert raised.value.response.headers["x-should-retry"] == "false"
        assert len(submitted(s.ingress)) == 1

    on_stage(story, limits, max_retries=1)


def test_incomplete_is_an_answer() -> None:
    async def story(s: Stage) -> None:
        create = asyncio.create_task(s.client.responses.create(**FOREGROUND))
        (job_id,) = await s.jobs(1)
        details = {"reason": "max_output_tokens"}
        s.ends(job_id, result_of("incomplete", provided(status="incomplete", incomplete_details=details)))
        assert (await create).status == "incomplete"

    on_stage(story)


def test_a_client_that_disconnects_cancels_nothing_and_its_repeat_gets_the_same_response() -> None:
    async def story(s: Stage) -> None:
        with pytest.raises(openai.APITimeoutError):
            await s.client.with_options(timeout=0.3).responses.create(**FOREGROUND)
        (job_id,) = [fact.job_id for fact in submitted(s.ingress)]
        assert not [fact for fact in s.ingress.publisher.landed if isinstance(fact, CancelRequested)]
        # A framework's own repeat says nothing of being one.
        again = asyncio.create_task(s.client.responses.create(**FOREGROUND))
        await eventually(lambda: s.changes.watchers == 2, what="the repeat to wait")
        s.ends(job_id)
        assert (await again).id == job_id
        assert len(submitted(s.ingress)) == 1
        await eventually(lambda: s.changes.watchers == 0, what="all to be answered or gone")
        other = asyncio.create_task(s.client.responses.create(**FOREGROUND))
        await eventually(lambda: len(submitted(s.ingress)) == 2 and s.changes.watchers, what="a call of its own")
        s.ends(submitted(s.ingress)[1].job_id)
        assert (await other).id != job_id, "what was answered is no repeat's"

    on_stage(story)


@pytest.mark.parametrize("headers", [{"Idempotency-Key": "order-17"}, {}], ids=["with a key", "without one"])
def test_the_sdks_own_repeat_joins_while_the_first_still_runs(headers: dict[str, str]) -> None:
    async def story(s: Stage) -> None:
        options = s.client.with_options(timeout=0.5, max_retries=5)
        create = asyncio.create_task(options.responses.create(**FOREGROUND, extra_headers=headers))
        await s.jobs(1)
        await asyncio.wait([create], timeout=1.2)
        (job_id,) = [fact.job_id for fact in submitted(s.ingress)]
        s.ends(job_id)
        assert (await create).id == job_id
        assert len(submitted(s.ingress)) == 1

    on_stage(story)


def test_equal_creates_that_wait_at_one_time_get_a_response_each() -> None:
    async def story(s: Stage) -> None:
        creates = []
        for number in range(8):
            creates.append(asyncio.create_task(s.client.responses.create(**FOREGROUND)))
            await s.jobs(number + 1)
        for job_id in await s.jobs(8):
            s.ends(job_id)
        assert len({(await create).id for create in creates}) == 8

    on_stage(story)


def test_an_unstored_response_is_shown_only_to_its_create_and_its_repeats() -> None:
    key = {"Idempotency-Key": "order-17"}

    async def story(s: Stage) -> None:
        create = asyncio.create_task(s.client.responses.create(**FOREGROUND, store=False, extra_headers=key))
        (job_id,) = await s.jobs(1)
        with pytest.raises(openai.NotFoundError):
            await s.client.responses.retrieve(job_id)
        s.ends(job_id)
        response = await create
        assert (response.output_text, response.store) == ("Hi.", False)
        with pytest.raises(openai.NotFoundError):
            await s.client.responses.retrieve(job_id)
        again = await s.client.responses.create(**FOREGROUND, store=False, extra_headers=key)
        assert again == response, "its answer may have been lost"
        with pytest.raises(openai.BadRequestError, match="store"):
            await s.client.responses.create(**ASKED, store=False)

    on_stage(story)


def test_an_unstored_response_is_cancelled_while_it_is_open_and_its_output_not_shown() -> None:
    async def story(s: Stage) -> None:
        create = asyncio.create_task(s.client.responses.create(**FOREGROUND, store=False))
        (job_id,) = await s.jobs(1)
        seen = await s.client.responses.cancel(job_id)
        assert (seen.id, seen.status, seen.output) == (job_id, "queued", [])
        assert seen.to_dict()["store"] is False
        assert cancelled(s) == [job_id]
        s.ends(job_id, result_of("cancelled", provided(status="cancelled")))
        with pytest.raises(openai.BadRequestError, match="cancelled"):
            await create
        with pytest.raises(openai.NotFoundError):
            await s.client.responses.cancel(job_id)
        assert cancelled(s) == [job_id], "it has ended: no read shows it, and nothing is left to cancel"

    on_stage(story, Limits(appear_s=0.1, cancelled_s=0.1, waiting_quiet_s=60))


def test_a_cancel_that_sees_the_end_of_an_unstored_response_shows_no_output() -> None:
    async def story(s: Stage) -> None:
        create = asyncio.create_task(s.client.responses.create(**FOREGROUND, store=False))
        (job_id,) = await s.jobs(1)
        cancel = asyncio.create_task(s.client.responses.cancel(job_id))
        await eventually(lambda: cancelled(s) == [job_id], what="a cancel")
        s.ends(job_id)
        seen = await cancel
        assert (seen.status, seen.output) == ("completed", [])
        assert (await create).output_text == "Hi.", "its create has the output"

    on_stage(story)


def test_a_deleted_response_is_not_there_for_a_cancel() -> None:
    async def story(s: Stage) -> None:
        create = asyncio.create_task(s.client.responses.create(**FOREGROUND))
        (job_id,) = await s.jobs(1)
        await s.client.responses.delete(job_id)
        with pytest.raises(openai.NotFoundError):
            await s.client.responses.cancel(job_id)
        assert cancelled(s) == [job_id], "by the deletion"
        s.ends(job_id)
        await create

    on_stage(story)


def cancelled(s: Stage) -> list[str]:
    return [fact.job_id for fact in s.ingress.publisher.landed if isinstance(fact, CancelRequested)]


def test_without_a_place_nothing_is_promised_and_a_tenant_leaves_some_to_others() -> None:
    async def story(s: Stage) -> None:
        creates = [asyncio.create_task(s.client.responses.create(**FOREGROUND | {"input": str(n)})) for n in range(4)]
        ids = await s.jobs(4)
        with pytest.raises(openai.InternalServerError) as raised:
            await s.client.responses.create(**FOREGROUND)
        assert (raised.value.status_code, raised.value.code) == (503, "too_many_waiting")
        assert len(submitted(s.ingress)) == 4
        background = await s.client.responses.create(**ASKED)
        assert background.status == "queued", "a create that does not wait needs no place"
        assert await s.ingress.metric("backstop_waiting_creates") == 4.0
        for job_id in ids:
            s.ends(job_id)
        await asyncio.gather(*creates)
        assert await s.ingress.metric("backstop_waiting_creates") == 0.0

    on_stage(story, Limits(appear_s=0.1, waiting_creates_max=5))


def test_a_read_model_that_is_away_is_waited_for() -> None:
    async def story(s: Stage) -> None:
        s.reads.away = True
        create = asyncio.create_task(s.client.responses.create(**FOREGROUND))
        (job_id,) = await s.jobs(1)
        s.ends(job_id)
        await asyncio.wait([create], timeout=0.1)
        assert not create.done()
        s.reads.away = False
        s.changes.touch(job_id)
        assert (await create).id == job_id

    on_stage(story)


def test_a_process_that_stops_cuts_its_waiters_off() -> None:
    async def story(s: Stage) -> None:
        create = asyncio.create_task(s.client.responses.create(**FOREGROUND))
        (job_id,) = await s.jobs(1)
        s.ingress.stop.set()
        await asyncio.wait([create], timeout=0.1)
        s.changes.touch(job_id)
        with pytest.raises(openai.APIConnectionError):
            await create

    on_stage(story)


def test_a_create_that_waits_too_long_is_answered_and_its_repeat_waits_on() -> None:
    async def story(s: Stage) -> None:
        create = asyncio.create_task(s.client.responses.create(**FOREGROUND))
        (job_id,) = await s.jobs(1)
        await asyncio.wait([create], timeout=0.9)
        s.ends(job_id)
        assert (await create).id == job_id
        assert len(submitted(s.ingress)) == 1

    on_stage(
        story, Limits(appear_s=0.1, waiting_quiet_s=0.1, waiting_heartbeat_s=0.1, waiting_s_max=0.4), max_retries=5
    )


def test_where_nothing_tells_of_ends_a_create_must_not_wait() -> None:
    async def story(ingress: Ingress) -> None:
        status, document, _ = await ingress.call("POST", "/v1/responses", json=FOREGROUND)
        assert (status, document["error"]["param"]) == (400, "background")
        assert "background: true" in document["error"]["message"]

    with_ingress(story)


WAITING = 200
KIB_EACH_MAX = 150
"""Memory a waiting create, both ends of its connection: 1,000 take 150 MiB at most. The body is released."""


def test_creates_that_wait_cost_little_memory() -> None:
    # `instructions` are of what an open response shows of its request, `input` is not.
    body = json.dumps({**FOREGROUND, "input": "x" * 200_000, "instructions": "x" * 200_000})

    async def ask(s: Stage, number: int) -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection("127.0.0.1", s.ingress.port)
        data = body.replace("xxxx", f"{number:04d}", 1).encode()
        head = "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        writer.write(f"{head}{len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        return writer

    async def story(s: Stage) -> None:
        writers = [await ask(s, 0)]
        await eventually(lambda: s.changes.watchers == 1, what="the first to wait")
        s.ingress.publisher.landed.clear()
        before_kib = resident_kib()
        for number in range(1, WAITING + 1):
            writers.append(await ask(s, number))
            await eventually(
                partial(lambda count: s.changes.watchers == count, number + 1), what="one more to wait", poll_s=0.005
            )
            s.ingress.publisher.landed.clear()  # the log is in memory here
            s.ingress.publisher.acked.clear()
        assert (resident_kib() - before_kib) / WAITING <= KIB_EACH_MAX
        for writer in writers:
            writer.close()

    on_stage(story)


def resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024
