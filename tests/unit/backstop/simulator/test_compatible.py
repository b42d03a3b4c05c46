"""Servers and gateways that are only nearly as OpenAI: their ids, their objects, how they take a create."""

import asyncio
from typing import Any
from urllib.parse import quote

import openai
import pytest

from backstop.simulator.ids import AWKWARD, response_id
from tests.support.waiting import eventually
from tests.unit.backstop.simulator.harness import KEY, NEVER_S, profile, world


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
            await w.control("POST", "aim", {"fault": "poll_503", "response": created.id})
            assert (await w.raw("GET", path))[0] == 503
            assert (await w.raw("GET", path))[1]["id"] == created.id
            assert (await w.raw("GET", f"{path}/input_items"))[0] == 200
            assert (await w.raw("POST", f"{path}/cancel"))[1]["status"] == "cancelled"
            assert (await w.webhooks(1))[0].event["data"]["id"] == created.id
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
            waiting = asyncio.create_task(w.create(fault="create_held", metadata={"sim_run_s": "0.6"}))
            await eventually(lambda: w.ledger("creates"))
            waiting.cancel()
            (line,) = await eventually(lambda: w.ledger("tokens"))
            assert waiting.cancelled()
            assert (line["status"], line["cost"]) == ("completed", "usage")

    asyncio.run(case())


@pytest.mark.parametrize(("fault", "has_output"), [("run_output_null", True), ("run_output_absent", False)])
def test_a_completed_response_may_have_no_list_of_outputs(fault: str, has_output: bool) -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            created = await w.create(fault=fault)
            await w.webhooks(1)
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


@pytest.mark.parametrize(
    ("form", "begins"),
    [
        ("bom", b"\xef\xbb\xbf{"), ("utf16", b"\xff\xfe"), ("prefix", b")]}'"), ("trailing", b"{"),
        ("envelope", b'{"status":'),
        ("list", b"[{"), ("events", b"event:"),
    ],
)  # fmt: skip
def test_something_may_stand_around_the_objects(form: str, begins: bytes) -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            body = {"model": "m", "input": "Hi", "background": True, "metadata": {"sim_fault": f"run_around={form}"}}
            headers = {"authorization": f"Bearer {KEY}"}
            async with w.http.post(f"{w.url}/v1/responses", json=body, headers=headers) as answer:
                assert (await answer.read()).startswith(begins)

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
            assert (await w.webhooks(1))[0].event["data"]["id"] == created.id

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
            created = await w.create(fault="poll_404_passing=2", metadata={"sim_run_s": NEVER_S, "sim_queue_s": "0"})

            async def is_running() -> bool:
                return (await w.sdk.responses.retrieve(created.id)).status == "in_progress"

            await eventually(is_running)
            with pytest.raises(openai.NotFoundError):
                await w.sdk.responses.retrieve(created.id)
            await eventually(is_running)
            assert await is_running()
            faults = {line["fault"] for line in await w.ledger("calls") if line["status"] == 404}
            assert faults == {"poll_404_passing"}

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
    ("form", "tokens"),
    [("floats", (float,)), ("nulls", (type(None),)), ("absent", (None,)), ("total", (int,)), ("whole", (int,))],
)
def test_usage_may_be_odd(form: str, tokens: tuple[Any]) -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            created = await w.create(fault=f"run_odd_usage={form}")
            await w.ended(created.id)
            _, body, _ = await w.raw("GET", f"/responses/{created.id}")
            assert ("usage" in body) == (form != "absent")
            if "usage" in body:
                assert isinstance(body["usage"]["total_tokens"], tokens)

    asyncio.run(case())


@pytest.mark.parametrize(("form", "error"), [("null", type(None)), ("text", str), ("message", dict)])
def test_a_failed_response_may_have_an_odd_error(form: str, error: type) -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(fault=f"run_odd_error={form}")
            await w.webhooks(1)
            _, body, _ = await w.raw("GET", f"/responses/{created.id}")
            assert body["status"] == "failed"
            assert isinstance(body["error"], error)
            said: Any = body["error"] or {}
            assert "code" not in said

    asyncio.run(case())


def test_an_object_may_hold_little() -> None:
    async def case() -> None:
        async with world() as w:
            asked = {"model": "m", "background": True, "metadata": {"job": "j", "sim_fault": "run_bare_object"}}
            _, created, _ = await w.raw("POST", "/responses", json=asked)
            assert set(created) == {"id", "status", "output", "error", "metadata"}
            await w.webhooks(1)
            _, body, _ = await w.raw("GET", f"/responses/{created['id']}")
            assert (body["status"], len(body["output"])) == ("completed", 1)

    asyncio.run(case())


@pytest.mark.parametrize(("form", "chars"), [("too_long", 1100), ("not_ascii", 43)])
def test_an_id_may_be_longer_than_a_client_must_accept_or_not_ascii(form: str, chars: int) -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(metadata={"sim_id": form})
            assert (len(created.id), created.id.isascii()) == (chars, form == "too_long")
            assert (await w.ended(created.id)).id == created.id
            assert (await w.webhooks(1))[0].event["data"]["id"] == created.id

    asyncio.run(case())


@pytest.mark.parametrize(("shape", "key"), [("detail", "detail"), ("text", "error"), ("message", "message")])
def test_all_errors_may_have_another_shape(shape: str, key: str) -> None:
    async def case() -> None:
        async with world(profile(errors=shape)) as w:
            for method, path, status in (
                ("GET", "/responses/resp_1", 404),
                ("POST", "/responses/resp_1/cancel", 404),
                ("POST", "/responses", 400),
            ):
                found, body, _ = await w.raw(method, path)
                assert (found, set(body)) == (status, {key})
                assert isinstance(body[key], str)
            found, body, _ = await w.raw("GET", "/responses/resp_1", key="sk-wrong")
            assert (found, set(body)) == (401, {key})

    asyncio.run(case())


def test_a_server_may_refuse_a_stream_in_background() -> None:
    async def case() -> None:
        async with world(profile(background_stream="refused")) as w:
            asked = {"model": "m", "background": True, "stream": True}
            assert (await w.raw("POST", "/responses", json=asked))[0] == 400
            assert (await w.create()).status == "queued"

    asyncio.run(case())
