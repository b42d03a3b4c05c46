"""What a provider does after it has accepted a job, and what servers do that are only nearly as OpenAI."""

import asyncio
import contextlib
import json
from typing import Any
from urllib.parse import quote

import aiohttp
import openai
import pytest

from simulator.errors import ConfigError
from simulator.ids import AWKWARD, response_id
from simulator.loading import merge_profile
from simulator.outlast import RATES
from simulator.profiles import PRESETS
from simulator.replies import REASONS, parse_reply
from tests.support.waiting import eventually
from tests.unit.simulator.harness import NEVER_S, World, profile, world

AGAIN = {"rate_limit_exceeded": "Please try again in 20s.", "server_is_overloaded": "Please try again later."}


@pytest.mark.parametrize("code", [*REASONS, "flux_capacitor_error"])
@pytest.mark.parametrize(("fault", "has_usage"), [("run_failed", False), ("run_failed_usage", True)])
def test_an_accepted_response_may_fail_with_any_code(code: str, fault: str, has_usage: bool) -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            ended = await w.ended((await w.create(fault=f"{fault}={code}")).id)
            assert ended.error is not None
            told = "rate_limit_exceeded" if code == "too_large_for_the_limit" else code
            assert (ended.status, ended.error.code, ended.usage is not None) == ("failed", told, has_usage)
            assert AGAIN.get(code, "") in ended.error.message
            (line,) = await w.ledger("tokens")
            assert line["cost"] == ("usage" if has_usage else "none")

    asyncio.run(case())


def test_a_failed_response_may_say_how_long_to_wait() -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            ended = await w.ended((await w.create(fault="run_failed=rate_limit_exceeded/67.5")).id)
            assert ended.error is not None
            assert "try again in 1m7.5s" in ended.error.message

    asyncio.run(case())


@pytest.mark.parametrize(("fault", "cost"), [("run_failed_at_once", "none"), ("run_failed_at_once_usage", "usage")])
def test_a_response_may_fail_at_once(fault: str, cost: str) -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            wanted = f"{fault}=server_is_overloaded"
            ended = await w.ended((await w.create(fault=wanted, metadata={"sim_run_s": NEVER_S})).id)
            assert ended.error is not None
            assert ended.error.code == "server_is_overloaded"
            assert [line["cost"] for line in await w.ledger("tokens")] == [cost]

    asyncio.run(case())


def test_a_rate_may_carry_an_argument() -> None:
    async def case() -> None:
        async with world(profile(rates={"run_failed=slow_down": 0.5, "run_failed=insufficient_quota": 0.5})) as w:
            w.sdk._strict_response_validation = False
            codes = set()
            for number in range(12):
                ended = await w.ended((await w.create(job=f"job_{number}")).id)
                assert ended.error is not None
                codes.add(ended.error.code)
            assert codes == {"slow_down", "insufficient_quota"}

    asyncio.run(case())


@pytest.mark.parametrize("form", ["hex", "short", "gateway", "printable"])
def test_an_id_of_any_form_works_wherever_it_is_used(form: str) -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(metadata={"sim_id": form, "sim_run_s": NEVER_S})
            assert created.id.isascii()
            assert created.id.isprintable()
            assert " " not in created.id
            assert (await w.sdk.responses.retrieve(created.id)).id == created.id
            assert (form == "gateway") == (len(created.id) == 453 and created.id.endswith("=="))
            path = f"/responses/{quote(created.id, safe='')}"
            await w.control("POST", "aim", {"fault": "look_503", "response": created.id})
            assert (await w.raw("GET", path))[0] == 503
            assert (await w.raw("GET", path))[1]["id"] == created.id
            assert (await w.raw("GET", f"{path}/input_items"))[0] == 200
            assert (await w.raw("POST", f"{path}/cancel"))[1]["status"] == "cancelled"
            assert (await w.hooks(1))[0].event["data"]["id"] == created.id
            assert (await w.raw("DELETE", path))[1]["deleted"] is True
            for name in ("creates", "tokens", "truth", "calls"):
                assert {line["response"] for line in await w.ledger(name)} == {created.id}, name

    asyncio.run(case())


def test_printable_ids_hold_what_a_path_would_take_for_its_own() -> None:
    found = [response_id("printable") for _ in range(200)]
    assert all(64 <= len(each) <= 1024 and set(AWKWARD) <= set(each) for each in found)


def test_a_profile_may_mix_the_forms_of_ids() -> None:
    async def case() -> None:
        async with world(profile(ids="any")) as w:
            lengths = {len((await w.create(job=f"job_{number}")).id) for number in range(24)}
            assert {53, 453, 17} <= lengths

    asyncio.run(case())


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        ("create_terminal", "completed", "Echo: Hello"),
        ("create_terminal_failed=insufficient_quota", "failed", ""),
        ("create_terminal_incomplete=content_filter", "incomplete", "Echo: Hello"),
    ],
)
def test_a_create_may_be_answered_with_its_end(fault: str, status: str, text: str) -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            answer = await w.create(fault=fault, metadata={"sim_run_s": NEVER_S})
            assert (answer.status, answer.output_text) == (status, text)
            assert (await w.ledger("creates"))[0]["replied"] is True

    asyncio.run(case())


@pytest.mark.parametrize(("given", "shown"), [("ignored", False), ("ignored_and_absent", None), ("create_held", False)])
def test_a_server_may_ignore_background_and_answer_when_it_is_done(given: str, shown: bool | None) -> None:
    async def case() -> None:
        by_fault = given.startswith("create_")
        async with world(profile() if by_fault else profile(background=given)) as w:
            answer = await w.create(fault=given if by_fault else "", metadata={"sim_run_s": "0.1"})
            assert (answer.status, answer.output_text, answer.background) == ("completed", "Echo: Hello", shown)
            assert w.receiver.got == []
            assert [line["state"] for line in await w.ledger("truth")] == ["queued", "in_progress", "completed"]

    asyncio.run(case())


def test_a_held_response_runs_on_without_its_client() -> None:
    async def case() -> None:
        async with world() as w:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await w.create(fault="create_held", metadata={"sim_run_s": "0.6"})
            (line,) = await eventually(lambda: w.ledger("tokens"))
            assert (line["status"], line["cost"]) == ("completed", "usage")

    asyncio.run(case())


@pytest.mark.parametrize(("fault", "has_output"), [("run_output_null", True), ("run_output_absent", False)])
def test_a_completed_response_may_have_no_list_of_outputs(fault: str, has_output: bool) -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            created = await w.create(fault=fault)
            await w.hooks(1)
            _, body, _ = await w.raw("GET", f"/responses/{created.id}")
            assert (body["status"], "output" in body, body.get("output")) == ("completed", has_output, None)
            assert body["usage"] is not None

    asyncio.run(case())


@pytest.mark.parametrize(
    ("fault", "opens", "ends"),
    [
        ("run_odd_words", {"pending", "running"}, "completed"),
        ("run_odd_end=done", {"queued", "in_progress"}, "done"),
        ("run_unknown_status=paused", {"queued", "paused"}, "paused"),
    ],
)
def test_states_may_have_other_names(fault: str, opens: set[str], ends: str) -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            created = await w.create(fault=fault, metadata={"sim_queue_s": "0.05", "sim_run_s": "0.1"})
            seen = {created.status}

            async def until_the_end() -> bool:
                _, body, _ = await w.raw("GET", f"/responses/{created.id}")
                seen.add(body["status"])
                return bool(body["status"] == ends)

            await eventually(until_the_end)
            assert seen <= opens | {ends}
            open_now = (await w.control("GET", "stats"))["open"]
            assert open_now == (1 if "unknown" in fault else 0)

    asyncio.run(case())


@pytest.mark.parametrize(("fault", "metadata"), [("run_other_id", True), ("run_other_id=no_metadata", False)])
def test_a_gateway_may_call_a_response_by_another_id(fault: str, metadata: bool) -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(fault=fault)
            ended = await w.ended(created.id)
            again = await w.sdk.responses.retrieve(created.id)
            assert ended.id == again.id != created.id
            assert (ended.metadata is not None) == metadata
            assert (await w.hooks(1))[0].event["data"]["id"] == created.id

    asyncio.run(case())


def test_metadata_may_be_lost() -> None:
    async def case() -> None:
        async with world() as w:
            assert (await w.create(fault="run_no_metadata")).metadata is None
            assert (await w.ledger("creates"))[0]["job"] == "job_1"

    asyncio.run(case())


def test_a_response_seen_running_may_not_be_found_for_a_while() -> None:
    async def case() -> None:
        async with world(time_scale=10) as w:
            created = await w.create(fault="look_404_passing=2", metadata={"sim_run_s": NEVER_S, "sim_queue_s": "0"})

            async def is_running() -> bool:
                return (await w.sdk.responses.retrieve(created.id)).status == "in_progress"

            await eventually(is_running)
            with pytest.raises(openai.NotFoundError):
                await w.sdk.responses.retrieve(created.id)
            await eventually(is_running)
            assert await is_running()
            faults = {line["fault"] for line in await w.ledger("calls") if line["status"] == 404}
            assert faults == {"look_404_passing"}

    asyncio.run(case())


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("create_locked", 400, ("conversation_locked", "Another process")),
        ("create_queue_full", 400, ('"detail"', "queue is full")),
        ("create_conflict", 409, ("conflict", "Please try again later")),
    ],
)
def test_a_lock_passes_after_a_time(fault: str, status: int, words: tuple[str, ...]) -> None:
    async def case() -> None:
        async with world(time_scale=10) as w:
            with pytest.raises(openai.APIStatusError) as caught:
                await w.create(fault=f"{fault}=2")
            assert caught.value.status_code == status
            assert all(word in caught.value.response.text for word in words)
            with pytest.raises(openai.APIStatusError):
                await w.create(attempt="2")  # whatever asks for the job meets the lock
            assert (await w.create(job="job_2")).status == "queued"
            created = await eventually(lambda: w.create(fault=f"{fault}=2"))
            assert created.status == "queued"
            assert len(await w.ledger("creates")) == 2

    asyncio.run(case())


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
                job="job_0", fault=f"look_answer={spec} cancel_answer={spec}", metadata={"sim_run_s": NEVER_S}
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


def test_a_job_that_was_paid_twice_is_counted() -> None:
    async def case() -> None:
        async with world() as w:
            for attempt in ("1", "2"):
                await w.ended((await w.create(attempt=attempt)).id)
            await w.ended((await w.create(attempt="3", fault="run_failed")).id)
            lines = await w.ledger("tokens")
            assert [(line["cost"], line["paid_before"]) for line in lines] == [("usage", 0), ("usage", 1), ("none", 2)]
            assert (await w.control("GET", "stats"))["cost"] == {"usage": 2, "paid_again": 1, "none": 1}

    asyncio.run(case())


def test_an_accepted_create_may_be_answered_with_202() -> None:
    async def case() -> None:
        async with world() as w:
            asked = {"model": "m", "background": True, "metadata": {"sim_fault": "create_accept_202"}}
            status, body, _ = await w.raw("POST", "/responses", json=asked)
            assert (status, body["status"]) == (202, "queued")
            assert (await w.ledger("creates"))[0]["replied"] is True

    asyncio.run(case())


@pytest.mark.parametrize(
    ("form", "tokens"), [("floats", (float,)), ("nulls", (type(None),)), ("absent", (None,)), ("whole", (int,))]
)
def test_usage_may_be_odd(form: str, tokens: tuple[type | None]) -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            created = await w.create(fault=f"run_odd_usage={form}")
            await w.ended(created.id)
            _, body, _ = await w.raw("GET", f"/responses/{created.id}")
            assert ("usage" in body) == (form != "absent")
            if "usage" in body:
                assert isinstance(body["usage"]["total_tokens"], tokens)

    asyncio.run(case())


@pytest.mark.parametrize("window", ["2h", "8h"])
@pytest.mark.parametrize("how", ["by_fault", "by_length"])
def test_a_run_that_misses_its_window_fails_when_the_window_ends(window: str, how: str) -> None:
    async def case() -> None:
        async with world(strict=False, time_scale=36_000) as w:
            options = {"completion_window": window}
            fault = "run_missed_window" if how == "by_fault" else ""
            longer = {} if how == "by_fault" else {"sim_run_s": "100000"}
            created = await w.create(fault=fault, metadata=longer, extra_body={"background_options": options})
            ended = await w.ended(created.id)
            assert ended.error is not None
            assert (ended.error.code, ended.usage) == ("completion_window_missed", None)
            (line,) = await w.ledger("creates")
            times = {each["state"]: each["at_ms"] for each in await w.ledger("truth")}
            assert times["failed"] - line["at_ms"] >= {"2h": 200, "8h": 800}[window] - 5
            assert (line["window"], line["continued"]) == (window, False)

    asyncio.run(case())


def test_a_window_has_its_own_queue_and_what_continues_is_sooner() -> None:
    async def case() -> None:
        model = {"windows": {"2h": {"kind": "fixed", "s": 7000}}, "continued_factor": 0}
        async with world(profile(models={"*": model})) as w:
            options = {"completion_window": "2h", "continuation_id": "c_1"}
            first = await w.create(extra_body={"background_options": options})
            second = await w.create(attempt="2", extra_body={"background_options": options})
            assert (await w.ended(second.id)).status == "completed"
            assert (await w.sdk.responses.retrieve(first.id)).status == "queued"
            assert [line["continued"] for line in await w.ledger("creates")] == [False, True]

    asyncio.run(case())


@pytest.mark.parametrize(
    ("options", "more", "words"),
    [
        ({"completion_window": "24h"}, {}, "Supported values are: 'soonest', '2h', and '8h'."),
        ({"completion_window": 2}, {}, "expected a string"),
        ({"window": "2h"}, {}, "Unknown parameter: 'background_options.window'."),
        ({"completion_window": "8h"}, {"stream": True}, "without a stream"),
        ({"completion_window": "8h"}, {"service_tier": "flex"}, "requires Standard processing"),
        ({"completion_window": "8h"}, {"background": False}, "requires 'background' to be true"),
    ],
)
def test_a_window_that_cannot_be_is_refused(options: dict[str, Any], more: dict[str, Any], words: str) -> None:
    async def case() -> None:
        async with world() as w:
            asked = {"model": "m", "background": True, "background_options": options, **more}
            status, body, _ = await w.raw("POST", "/responses", json=asked)
            assert (status, words in body["error"]["message"]) == (400, True)

    asyncio.run(case())


def test_the_preset_meets_jobs_with_each_of_its_creates_and_runs() -> None:
    async def case() -> None:
        wanted = merge_profile(PRESETS["outlast"], {"events": []})
        async with world(wanted, hooks=False, time_scale=1000) as w:
            await asyncio.gather(*(_batch(w, first) for first in range(0, 1200, 60)))
            struck = (await w.control("GET", "stats"))["faults"]
            names = {name.partition("=")[0] for name, rate in RATES.items() if rate >= 0.005}
            assert {name for name in names if name.startswith(("create_", "run_"))} <= set(struck)

    asyncio.run(case())


async def _batch(w: World, first: int) -> None:
    for number in range(first, first + 60):
        asked = {"model": "m", "background": True, "metadata": {"job": f"job_{number}", "attempt": "1"}}
        with contextlib.suppress(aiohttp.ClientError):
            await w.raw_text("POST", "/responses", json=asked)
