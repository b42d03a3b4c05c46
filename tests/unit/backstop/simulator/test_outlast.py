"""How responses end after they were accepted, in which window, at what cost; the preset that has all of it."""

import asyncio
import contextlib
from typing import Any

import aiohttp
import pytest

from backstop.simulator.loading import merge_profile
from backstop.simulator.outlast import RATES
from backstop.simulator.profiles import PRESETS
from backstop.simulator.replies import REASONS
from tests.unit.backstop.simulator.harness import NEVER_S, World, profile, world

AGAIN = {"rate_limit_exceeded": "Please try again in 20s.", "server_is_overloaded": "Please try again later."}


@pytest.mark.parametrize(("fault", "has_usage"), [("run_failed", False), ("run_failed_usage", True)])
def test_an_accepted_response_may_fail_with_any_code(fault: str, has_usage: bool) -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            for code in (*REASONS, "flux_capacitor_error"):
                ended = await w.ended((await w.create(job=f"job_{code}", fault=f"{fault}={code}")).id)
                assert ended.error is not None, code
                told = "rate_limit_exceeded" if code == "too_large_for_the_limit" else code
                assert (ended.status, ended.error.code, ended.usage is not None) == ("failed", told, has_usage)
                assert AGAIN.get(code, "") in ended.error.message
            costs = {line["cost"] for line in await w.ledger("tokens")}
            assert costs == {"usage" if has_usage else "none"}

    asyncio.run(case())


@pytest.mark.parametrize(
    "code", ["rate_limit_exceeded", "server_is_overloaded", "server_error", "flux_capacitor_error"]
)
def test_a_failed_response_may_say_how_long_to_wait(code: str) -> None:
    async def case() -> None:
        async with world(strict=False) as w:
            ended = await w.ended((await w.create(fault=f"run_failed={code}/67.5")).id)
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
            assert str(ended.error.code) == "server_is_overloaded"
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
        async with world(wanted, webhooks=False, time_scale=1000) as w:
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
