"""A told wait is understood wherever it stands and however it is written; what tells none is 0."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.openai.answers import ProviderAnswer, read_create, read_poll
from streams.openai.durations import WAIT_MS_MAX
from streams.openai.waits import body_wait_ms, limit_reset_ms, retry_after_ms, text_wait_ms
from streams.provider import Rejected, Seen
from tests.unit.streams.policy.replies import NOW_MS, error
from tests.unit.streams.workers.misbehaving import response

NOW_S = NOW_MS // 1_000
LATER_ISO = "2026-01-01T00:00:30Z"
AT_ISO_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""


@pytest.mark.parametrize(
    ("text", "wait_ms"),
    [
        ("Please try again in 1m2.5s. Visit the page", 62_500), ("Please try again in 350ms.", 350),
        ("Please retry in 8.074824224s.", 8_075), ("Please retry after 9 seconds.", 9_000),
        ("please wait 0 minutes and 12 seconds before trying again", 12_000),
        ("try again in 1 minute 12 seconds", 72_000), ("You need to wait for 11 sec.", 11_000),
        ("Rate limit will reset in 10 seconds", 10_000), ("Wait 00:00:10 before retry", 10_000),
        ("Reset in 4h 3m", 14_580_000), ("try again later in 10s", 10_000), ("retry your request after 16 s", 16_000),
        ("Please try again in about 20s", 20_000), ("retry after 30", 30_000), ("Retry-After: 30.5", 30_500),
        ("retry_after=10", 10_000), ("Please wait at least 10 second(s)", 10_000), ("Try again in 2d", 172_800_000),
        (f"Try again after {LATER_ISO}.", 30_000), ("Your limit resets at 2026-01-01 00:00:30 UTC.", 30_000),
        ("available again on 2026-01-01T01:00:30+01:00", 30_000),
        ("Limit 30000, Requested 50000. Please try again later.", 0), ("5 requests per 60 seconds, try again later", 0),
        ("retry after 3 attempts", 0), ("wait time is 5%", 0), ("Please try again. The limit is 5 s", 0), ("", 0),
        ("Try again after 2025-12-31T23:59:59Z", 0), ("try again in 99h99", 356_400_000), ("in 20s", 0),
    ],
)  # fmt: skip
def test_a_wait_in_words(text: str, wait_ms: int) -> None:
    assert text_wait_ms(text, AT_ISO_MS) == wait_ms


@pytest.mark.parametrize(
    ("value", "wait_ms"),
    [
        ("10", 10_000), ("10s", 10_000), ("10 seconds", 10_000), ("1m30s", 90_000), ("8, 8", 8_000),
        ("00:00:10", 10_000),
        (str(NOW_S + 10), 10_000), (str(NOW_MS + 10_000), 10_000), (str(NOW_S - 10), 0), ('"10"', 10_000),
        ("99999999999999999999", 0), ("-5", 0), ("0", 0), ("soon", 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["retry-after", "x-ratelimit-reset", "ratelimit-reset", "x-ratelimit-reset-tokens"])
def test_a_wait_in_a_header(where: str, value: str, wait_ms: int) -> None:
    headers = {where: value, "x-ratelimit-remaining-tokens": "0"}
    assert (retry_after_ms(headers, NOW_MS) or limit_reset_ms(headers, None, NOW_MS)) == wait_ms


def test_an_instant_in_a_header() -> None:
    for name in ("retry-after", "x-ratelimit-reset", "anthropic-ratelimit-requests-reset"):
        headers = {name: LATER_ISO, "anthropic-ratelimit-requests-remaining": "0"}
        assert (retry_after_ms(headers, AT_ISO_MS) or limit_reset_ms(headers, None, AT_ISO_MS)) == 30_000


@pytest.mark.parametrize(
    ("headers", "wait_ms"),
    [
        ({"anthropic-ratelimit-tokens-remaining": "7", "anthropic-ratelimit-tokens-reset": "9"}, 0),
        ({"x-ratelimit-reset-requests": "9s"}, 0), ({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "9"}, 0),
        ({"ratelimit": '"default";r=0;t=30'}, 30_000), ({"ratelimit": '"default";r=5;t=30'}, 0),
        ({"x-ms-retry-after-ms": "700"}, 700),
    ],
)  # fmt: skip
def test_only_an_exhausted_limit_makes_wait(headers: dict[str, str], wait_ms: int) -> None:
    assert (retry_after_ms(headers, NOW_MS) or limit_reset_ms(headers, None, NOW_MS)) == wait_ms


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no", "retry_after": 10}}, {"message": "no", "retry_after": 9.9995},
        {"error": {"code": 429, "details": [{"@type": "x/google.rpc.RetryInfo", "retryDelay": "10s"}]}},
        {"error": {"type": "usage_limit_reached", "resets_at": NOW_S + 10}}, {"detail": {"retry_after_ms": 10_000}},
        {"error": {"metadata": {"headers": {"X-RateLimit-Reset": str(NOW_MS + 10_000)}}}}, {"retryAfter": "00:10"},
    ],
)  # fmt: skip
def test_a_wait_in_a_member_of_the_error(body: Any) -> None:
    refused = read_create(ProviderAnswer(429, {}, body), NOW_MS)
    assert isinstance(refused, Rejected)
    assert refused.wait_ms == 10_000
    failed = read_poll(ProviderAnswer(200, {}, response(status="failed", error=body.get("error", body))), NOW_MS)
    assert isinstance(failed, Seen)
    assert failed.wait_ms == 10_000


def test_a_condition_of_the_account_delays_no_job_for_the_end_of_the_month() -> None:
    quota = error(429, "insufficient_quota", None, "Your quota resets in 20 days")
    refused = read_create(quota, NOW_MS)
    assert isinstance(refused, Rejected)
    assert (refused.cause, refused.wait_ms) == ("account", 300_000)


@given(
    st.recursive(
        st.text() | st.integers() | st.floats() | st.none(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["retry_after", "resets_at", "error", "retryDelay"]) | st.text(max_size=4), inner
            )
        ),
        max_leaves=20,
    )
)
def test_no_body_and_no_text_makes_the_waits_fail(body: Any) -> None:
    assert 0 <= body_wait_ms(body, NOW_MS) <= WAIT_MS_MAX
    assert 0 <= text_wait_ms(f"try again in {body}", NOW_MS) <= WAIT_MS_MAX
