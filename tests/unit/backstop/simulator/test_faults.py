"""Each fault as a client sees it, and what really happened behind it."""

import asyncio
import json
import time

import httpx2
import openai
import pytest

from tests.support.waiting import eventually
from tests.unit.backstop.simulator.harness import NEVER_S, World, profile, world

HUNG_UP = (openai.APIConnectionError,)
# What one create or retrieve raises under each kind, and the HTTP status where there is one.
KINDS: dict[str, tuple[tuple[type[BaseException], ...], int]] = {
    "close": (HUNG_UP, 0),
    "reset": (HUNG_UP, 0),
    "cut": (HUNG_UP, 0),
    "not_http": (HUNG_UP, 0),
    "html_200": ((openai.APIResponseValidationError,), 0),
    "empty_object": ((openai.APIResponseValidationError,), 0),
    "list": ((openai.APIResponseValidationError,), 0),
    "broken_json": ((json.JSONDecodeError,), 0),
    "no_content": ((json.JSONDecodeError,), 0),
    "408": ((openai.APIStatusError,), 408),
    "409": ((openai.ConflictError,), 409),
    "500": ((openai.InternalServerError,), 500),
    "502": ((openai.InternalServerError,), 502),
    "503": ((openai.InternalServerError,), 503),
    "504": ((openai.InternalServerError,), 504),
}


@pytest.mark.parametrize("side", ["accept", "refuse"])
def test_a_spoiled_create_is_recorded_if_and_only_if_it_was_accepted(side: str) -> None:
    async def case() -> None:
        async with world() as w:
            for number, (kind, (errors, status)) in enumerate(KINDS.items(), start=1):
                fault = f"create_{side}_{kind}"
                with pytest.raises(errors) as caught:
                    await w.create(job=f"job_{kind}", fault=fault)
                assert getattr(caught.value, "status_code", status) == status or not status, kind
                lines = await w.ledger("creates")
                assert len(lines) == (number if side == "accept" else 0), kind
                if lines:
                    assert (lines[-1]["fault"], lines[-1]["replied"]) == (fault, False)
                    found = await w.sdk.responses.retrieve(lines[-1]["response"])
                    assert (found.metadata or {})["backstop_job"] == f"job_{kind}"
            assert (await w.create(fault=f"create_{side}_null") is None) is True

    asyncio.run(case())


@pytest.mark.parametrize("side", ["accept", "refuse"])
def test_a_stalled_or_dripping_create_outlasts_its_client(side: str) -> None:
    async def case() -> None:
        async with world(profile(drip_gap_real_s=0.05)) as w:
            for kind in ("stall", "drip"):
                with pytest.raises((openai.APITimeoutError, TimeoutError)):
                    async with asyncio.timeout(0.4):
                        await w.create(job=f"job_{kind}", fault=f"create_{side}_{kind}")
            assert len(await w.ledger("creates")) == (2 if side == "accept" else 0)

    asyncio.run(case())


def test_a_stall_ends_with_a_closed_connection() -> None:
    async def case() -> None:
        async with world(profile(stall_real_s=0.1)) as w:
            with pytest.raises(openai.APIConnectionError):
                await w.create(fault="create_accept_stall")

    asyncio.run(case())


def test_a_reset_is_a_reset_and_not_an_orderly_end() -> None:
    async def case() -> None:
        async with world() as w:
            with pytest.raises(openai.APIConnectionError) as caught:
                await w.create(fault="create_accept_reset")
            assert isinstance(caught.value.__cause__, httpx2.ReadError)

    asyncio.run(case())


def test_a_slow_create_arrives_in_the_end() -> None:
    async def case() -> None:
        async with world() as w:
            began = time.monotonic()
            assert (await w.create(fault="create_accept_slow=0.3")).status == "queued"
            assert time.monotonic() - began >= 0.3
            assert (await w.ledger("creates"))[0]["replied"] is True

    asyncio.run(case())


@pytest.mark.parametrize(
    ("fault", "error", "code", "kind", "waits"),
    [
        ("create_429_requests", openai.RateLimitError, "rate_limit_exceeded", "requests", True),
        ("create_429_tokens", openai.RateLimitError, "rate_limit_exceeded", "tokens", True),
        ("create_429_too_large", openai.RateLimitError, "rate_limit_exceeded", "tokens", False),
        ("create_429_slow_down", openai.RateLimitError, "slow_down", "rate_limit_error", True),
        ("create_429_flex", openai.RateLimitError, "resource_unavailable", "resource_unavailable", True),
        ("create_429_other", openai.RateLimitError, None, "rate_limit_error", True),
        ("create_429_insufficient_quota", openai.RateLimitError, "insufficient_quota", "insufficient_quota", False),
        (
            "create_429_project_spend_limit_exceeded",
            openai.RateLimitError,
            "project_spend_limit_exceeded",
            "insufficient_quota",
            False,
        ),
        (
            "create_503_overloaded",
            openai.InternalServerError,
            "server_is_overloaded",
            "service_unavailable_error",
            True,
        ),
        ("create_html_403", openai.PermissionDeniedError, None, None, False),
        ("create_html_429", openai.RateLimitError, None, None, True),
        ("create_400", openai.BadRequestError, "invalid_value", "invalid_request_error", False),
        ("create_401", openai.AuthenticationError, "invalid_api_key", "invalid_request_error", False),
        ("create_403", openai.PermissionDeniedError, "model_not_found", "invalid_request_error", False),
        ("create_404_model", openai.NotFoundError, "model_not_found", "invalid_request_error", False),
        ("create_413", openai.APIStatusError, "request_too_large", "invalid_request_error", False),
        ("create_422", openai.UnprocessableEntityError, None, "invalid_request_error", False),
        ("create_307", openai.APIStatusError, None, None, False),
    ],
)
def test_a_refusal_has_the_error_and_the_code_that_say_how_to_act(
    fault: str, error: type[openai.APIStatusError], code: str | None, kind: str | None, waits: bool
) -> None:
    async def case() -> None:
        async with world() as w:
            with pytest.raises(error) as caught:
                await w.create(fault=fault)
            assert (caught.value.code, caught.value.type) == (code, kind)
            assert ("retry-after" in caught.value.response.headers) == waits
            assert isinstance(caught.value.body, str) == ("html" in fault or "307" in fault)
            if fault == "create_429_too_large":
                assert caught.value.message.find("Request too large") >= 0
            assert await w.ledger("creates") == []
            (call,) = await w.ledger("calls")
            assert (call["op"], call["status"], call["fault"]) == ("create", caught.value.status_code, fault)

    asyncio.run(case())


@pytest.mark.parametrize(
    ("form", "header", "value"),
    [("seconds", "retry-after", "2"), ("fraction", "retry-after", "1.500"), ("ms", "retry-after-ms", "1500")],
)
def test_the_wait_is_told_in_each_form(form: str, header: str, value: str) -> None:
    async def case() -> None:
        async with world(profile(retry_after=form, retry_after_real_s=1.5)) as w:
            with pytest.raises(openai.RateLimitError) as caught:
                await w.create(fault="create_429_requests")
            assert caught.value.response.headers[header] == value

    asyncio.run(case())


def test_the_wait_may_be_a_date_or_missing() -> None:
    async def case(form: str) -> str | None:
        async with world(profile(retry_after=form)) as w:
            with pytest.raises(openai.RateLimitError) as caught:
                await w.create(fault="create_429_requests")
            found: str | None = caught.value.response.headers.get("retry-after")
            return found

    assert (asyncio.run(case("date")) or "").endswith("GMT")
    assert asyncio.run(case("none")) is None


def test_a_create_can_be_answered_as_completed_at_once() -> None:
    async def case() -> None:
        async with world() as w:
            answer = await w.create(fault="create_terminal", metadata={"sim_run_s": NEVER_S})
            assert (answer.status, answer.output_text) == ("completed", "Echo: Hello")
            assert (await w.webhooks(1))[0].event["data"]["id"] == answer.id

    asyncio.run(case())


@pytest.mark.parametrize("state", ["queued", "in_progress"])
def test_a_stuck_response_never_ends(state: str) -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(fault=f"run_stuck_{state}")
            if state == "in_progress":
                await eventually(lambda: _is_in(w, created.id, state))
            stats = await w.control("GET", "stats")
            assert (stats["open"], stats["timers_pending"]) == (1, 0)
            assert (await w.sdk.responses.retrieve(created.id)).status == state
            assert (await w.sdk.responses.cancel(created.id)).status == "cancelled"

    asyncio.run(case())


async def _is_in(w: World, response_id: str, status: str) -> bool:
    return (await w.sdk.responses.retrieve(response_id)).status == status


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        *((f"poll_{kind}", errors) for kind, (errors, _) in KINDS.items()),
        ("poll_404", openai.NotFoundError),
        ("poll_401", openai.AuthenticationError),
        ("poll_429", openai.RateLimitError),
        ("poll_html_403", openai.PermissionDeniedError),
        ("poll_html_429", openai.RateLimitError),
        ("poll_307", openai.APIStatusError),
        ("poll_unknown_status", openai.APIResponseValidationError),
        ("poll_truncated", json.JSONDecodeError),
    ],
)
def test_a_struck_poll_fails_once_and_the_next_one_tells_the_truth(
    fault: str, error: type[BaseException] | tuple[type[BaseException], ...]
) -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(fault=fault, metadata={"sim_run_s": NEVER_S})
            with pytest.raises(error):
                await w.sdk.responses.retrieve(created.id)
            assert (await w.sdk.responses.retrieve(created.id)).id == created.id
            polls = [line for line in await w.ledger("calls") if line["op"] == "poll"]
            assert [line["fault"] for line in polls] == [fault, None]

    asyncio.run(case())


def test_a_poll_may_show_another_response() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(fault="poll_another_id*2")
            for same in (False, False, True):
                assert ((await w.sdk.responses.retrieve(created.id)).id == created.id) is same

    asyncio.run(case())


def test_an_unknown_status_reaches_a_lenient_client() -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            created = await w.create(fault="poll_unknown_status")
            assert (await w.sdk.responses.retrieve(created.id)).status == "paused"  # type: ignore[comparison-overlap]

    asyncio.run(case())


def test_a_new_response_may_not_be_found_at_first() -> None:
    async def case() -> None:
        async with world(time_scale=10) as w:
            created = await w.create(fault="poll_404_at_first=2")
            with pytest.raises(openai.NotFoundError):
                await w.sdk.responses.retrieve(created.id)
            found = await w.ended(created.id)  # keeps asking: an error counts as "not yet"
            assert found.status == "completed"

    asyncio.run(case())


def test_a_completed_response_may_seem_to_run_again_once() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(fault="poll_regress")
            assert (await w.ended(created.id)).status == "completed"
            statuses = [(await w.sdk.responses.retrieve(created.id)).status for _ in range(3)]
            assert statuses == ["in_progress", "completed", "completed"]

    asyncio.run(case())


def test_a_completed_response_may_be_empty_without_usage() -> None:
    async def case() -> None:
        async with world() as w:
            ended = await w.ended((await w.create(fault="run_empty_output")).id)
            assert (ended.status, ended.output, ended.usage) == ("completed", [], None)

    asyncio.run(case())


def test_a_failed_response_may_have_an_unknown_code_or_none() -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            unknown = await w.ended((await w.create(fault="run_failed_unknown_code")).id)
            assert unknown.error is not None
            assert str(unknown.error.code) == "flux_capacitor_error"
            none = await w.ended((await w.create(fault="run_failed_no_code")).id)
            assert none.error is not None
            assert "code" not in none.error.model_fields_set

    asyncio.run(case())


def test_a_response_may_expire_after_its_end() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(fault="run_expires")
            await w.webhooks(1)
            with pytest.raises(openai.NotFoundError):
                await w.sdk.responses.retrieve(created.id)
            assert [line["state"] for line in await w.ledger("truth")][-2:] == ["completed", "expired"]

    asyncio.run(case())


@pytest.mark.parametrize("side", ["accept", "refuse"])
def test_a_spoiled_cancel_cancels_if_and_only_if_it_was_accepted(side: str) -> None:
    async def case() -> None:
        async with world() as w:
            for kind, (errors, _) in KINDS.items():
                created = await w.create(fault=f"cancel_{side}_{kind}", metadata={"sim_run_s": NEVER_S})
                with pytest.raises(errors):
                    await w.sdk.responses.cancel(created.id)
                status = (await w.sdk.responses.retrieve(created.id)).status
                assert (status == "cancelled") == (side == "accept"), kind

    asyncio.run(case())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("cancel_400", openai.BadRequestError),
        ("cancel_404", openai.NotFoundError),
        ("cancel_409", openai.ConflictError),
        ("cancel_429", openai.RateLimitError),
    ],
)
def test_a_refused_cancel_leaves_the_response_running(fault: str, error: type[Exception]) -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(fault=fault, metadata={"sim_run_s": NEVER_S})
            with pytest.raises(error):
                await w.sdk.responses.cancel(created.id)
            assert (await w.sdk.responses.cancel(created.id)).status == "cancelled"

    asyncio.run(case())


def test_a_cancelled_response_may_run_on() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(fault="cancel_runs_on", metadata={"sim_run_s": "0.3"})
            assert (await w.sdk.responses.cancel(created.id)).status in ("queued", "in_progress")
            assert (await w.ended(created.id)).status == "completed"

    asyncio.run(case())


def test_a_cancelled_response_may_complete_with_a_second_webhook() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(fault="cancel_then_completed=0.1", metadata={"sim_run_s": NEVER_S})
            assert (await w.sdk.responses.cancel(created.id)).status == "cancelled"
            webhooks = await w.webhooks(2)
            assert [webhook.event["type"] for webhook in webhooks] == ["response.cancelled", "response.completed"]
            assert (await w.sdk.responses.retrieve(created.id)).status == "completed"
            assert (await w.control("GET", "stats"))["open"] == 0

    asyncio.run(case())
