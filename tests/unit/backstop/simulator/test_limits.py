"""Limits per model: what is refused, and what the headers say of it."""

import asyncio
from typing import Any

import openai
import pytest

from backstop.simulator.replies import go_duration
from tests.unit.backstop.simulator.harness import World, profile, world


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
