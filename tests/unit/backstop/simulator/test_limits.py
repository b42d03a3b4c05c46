"""Limits per model: what is refused, and what the headers say of it."""

import asyncio
from typing import Any

import openai
import pytest

from backstop.simulator.replies import go_duration
from tests.support.waiting import eventually
from tests.unit.backstop.simulator.harness import KEY, World, profile, world


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.12, "120ms"), (1, "1s"), (7.66, "7.66s"), (60, "1m0s"), (360, "6m0s"), (3723.5, "1h2m3.5s")],
)
def test_durations_are_printed_as_go_prints_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


def _limited(**model: int) -> dict[str, object]:
    return {"gpt-6-astra": model}


async def _headers(w: World, **more: Any) -> dict[str, str]:
    raw = await w.sdk.responses.with_raw_response.create(
        model="gpt-6-astra",
        input="x" * 400,
        background=True,
        **more,
    )
    return dict(raw.headers)


def test_requests_over_the_limit_are_refused_and_the_headers_tell_when_to_come_back() -> None:
    async def case() -> None:
        async with world(profile(models=_limited(requests_per_minute=2))) as w:
            first = await _headers(w)
            assert first["x-ratelimit-limit-requests"] == "2"
            assert first["x-ratelimit-remaining-requests"] == "1"
            assert "x-ratelimit-limit-tokens" not in first
            await _headers(w)
            with pytest.raises(openai.RateLimitError) as caught:
                await _headers(w)
            assert (caught.value.type, caught.value.code) == ("requests", "rate_limit_exceeded")
            assert 28 <= int(caught.value.response.headers["retry-after"]) <= 30
            assert len(await w.ledger("creates")) == 2

    asyncio.run(case())


def test_tokens_are_charged_by_the_larger_of_input_and_output_limit() -> None:
    async def case() -> None:
        async with world(profile(models=_limited(tokens_per_minute=1000))) as w:
            assert (await _headers(w))["x-ratelimit-remaining-tokens"] == "900"
            assert int((await _headers(w, max_output_tokens=800))["x-ratelimit-remaining-tokens"]) in (100, 101)
            with pytest.raises(openai.RateLimitError) as caught:
                await _headers(w, max_output_tokens=500)
            assert caught.value.type == "tokens"
            assert "Rate limit reached" in caught.value.message
            with pytest.raises(openai.RateLimitError) as caught:
                await _headers(w, max_output_tokens=5000)
            assert "Request too large" in caught.value.message
            assert "retry-after" not in caught.value.response.headers

    asyncio.run(case())


def test_limits_of_one_model_do_not_touch_another() -> None:
    async def case() -> None:
        async with world(profile(models=_limited(requests_per_minute=1))) as w:
            await w.create(model="gpt-6-astra")
            with pytest.raises(openai.RateLimitError):
                await w.create(model="gpt-6-astra")
            assert (await w.create(model="gpt-6-mini")).status == "queued"

    asyncio.run(case())


def test_the_number_of_open_responses_may_be_capped() -> None:
    async def case() -> None:
        async with world(profile(models=_limited(open_max=1))) as w:
            created = await w.create(metadata={"sim_run_s": "1000000"})
            with pytest.raises(openai.RateLimitError):
                await w.create()
            await w.sdk.responses.cancel(created.id)
            assert (await w.create()).status == "queued"

    asyncio.run(case())


def test_polls_are_counted_only_if_the_profile_says_so() -> None:
    async def case(*, counted: bool) -> int:
        wanted = profile(models=_limited(requests_per_minute=2), polls_counted=counted, poll_after_ms=1500)
        async with world(wanted) as w:
            created = await w.create(metadata={"sim_run_s": "1000000"})
            answers = [await w.raw("GET", f"/responses/{created.id}") for _ in range(4)]
            assert answers[0][2]["openai-poll-after-ms"] == "1500"
            return sum(status == 429 for status, _, _ in answers)

    assert asyncio.run(case(counted=False)) == 0
    assert asyncio.run(case(counted=True)) == 3


def test_the_headers_can_be_hidden() -> None:
    async def case() -> None:
        async with world(profile(models=_limited(requests_per_minute=2), limit_headers=False)) as w:
            assert not [name for name in await _headers(w) if name.startswith("x-ratelimit")]

    asyncio.run(case())


def test_each_key_has_limits_of_its_own() -> None:
    async def case() -> None:
        wanted = profile(models=_limited(requests_per_minute=1))
        async with world(wanted, api_keys=(KEY, "sk-two")) as w:
            body = {"model": "gpt-6-astra", "input": "x", "background": True}
            asked = [await w.raw("POST", "/responses", key=key, json=body) for key in (KEY, KEY, "sk-two", "sk-two")]
            statuses = [status for status, _, _ in asked]
            assert statuses == [200, 429, 200, 429]
            lanes = (await w.control("GET", "limits"))["lanes"]
            assert [(lane["project"], lane["taken"], lane["refused"]) for lane in lanes] == [
                (0, 1, {"429_requests": 1}), (1, 1, {"429_requests": 1}),
            ]  # fmt: skip

    asyncio.run(case())


def test_a_key_may_have_a_limit_over_all_its_models() -> None:
    async def case() -> None:
        async with world(profile(projects={"0": {"tokens_per_minute": 150}})) as w:
            first = await _headers(w)
            assert (first["x-ratelimit-limit-project-tokens"], first["x-ratelimit-remaining-project-tokens"]) == (
                "150", "50",
            )  # fmt: skip
            with pytest.raises(openai.RateLimitError) as caught:
                await w.create(model="gpt-6-mini", input="x" * 400)
            assert "project tokens per min" in caught.value.message

    asyncio.run(case())


def test_a_day_of_tokens_is_refused_with_a_long_wait() -> None:
    async def case() -> None:
        async with world(profile(models=_limited(tokens_per_day=150))) as w:
            await _headers(w)
            with pytest.raises(openai.RateLimitError) as caught:
                await _headers(w)
            assert "tokens per day (TPD)" in caught.value.message
            assert int(caught.value.response.headers["retry-after"]) > 3_600

    asyncio.run(case())


def test_limits_that_change_while_running_keep_what_was_used() -> None:
    async def case() -> None:
        async with world(profile(models=_limited(tokens_per_minute=1_000))) as w:
            await _headers(w, max_output_tokens=300)
            await w.control("POST", "limits", {"factor": 0.5})
            halved = await _headers(w)
            assert halved["x-ratelimit-limit-tokens"] == "500"
            assert 400 <= int(halved["x-ratelimit-remaining-tokens"]) <= 402, "700 were left, of which 500 fit"
            shown = await w.control("DELETE", "limits")
            assert shown["changes"] == []
            assert shown["lanes"][0]["tokens_per_minute"] == 1_000
            await w.control("POST", "faults", {"models": {"gpt-6-astra": {"tokens_per_minute": 2_000}}})
            doubled = await _headers(w)
            assert doubled["x-ratelimit-limit-tokens"] == "2000"
            assert int(doubled["x-ratelimit-remaining-tokens"]) < 400, "a higher limit is no full bucket"

    asyncio.run(case())


def test_a_change_is_of_its_lane_and_ends_by_itself() -> None:
    async def case() -> None:
        wanted = profile(models={"*": {"requests_per_minute": 100}})
        async with world(wanted, time_scale=100.0) as w:
            await w.control("POST", "limits", {"factor": 0.1, "model": "gpt-6-astra", "for_s": 20})
            assert (await _headers(w))["x-ratelimit-limit-requests"] == "10"
            other = await w.sdk.responses.with_raw_response.create(model="gpt-6-mini", input="x", background=True)
            assert other.headers["x-ratelimit-limit-requests"] == "100"

            async def is_over() -> bool:
                return not (await w.control("GET", "limits"))["changes"]

            await eventually(is_over, 5, "the end of the change")
            assert (await _headers(w))["x-ratelimit-limit-requests"] == "100"

    asyncio.run(case())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("limits", {"factor": 0}), ("limits", {"factor": -1}), ("limits", {"faktor": 2}),
        ("faults", {"projects": {"one": {}}}), ("faults", {"projects": {"0": {"tokens_per_minute": -1}}}),
        ("faults", {"models": {"m": {"tokens_per_day": -1}}}),
    ],
)  # fmt: skip
def test_impossible_limits_are_refused_and_change_nothing(path: str, body: dict[str, Any]) -> None:
    async def case() -> None:
        async with world(profile()) as w:
            assert "error" in await w.control("POST", path, body, status=400)
            assert (await w.control("GET", "limits"))["changes"] == []

    asyncio.run(case())
