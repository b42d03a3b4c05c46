"""What the headers of an answer tell of rate limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.told_limits import ToldLimits
from streams.openai.answers import ProviderAnswer, read_create
from streams.openai.foreign_json import NOT_JSON
from streams.openai.told_limits import told_limits
from streams.provider import Accepted, Rejected, Unknown
from tests.unit.streams.workers.misbehaving import response

HEADERS = {
    "x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "499", "x-ratelimit-reset-requests": "120ms",
    "x-ratelimit-limit-tokens": "30000", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s",
}  # fmt: skip
TOLD = ToldLimits(requests_per_min=500, requests_left=499, tokens_per_min=30_000, tokens_left=0)


def test_the_headers_are_read() -> None:
    assert told_limits(HEADERS) == TOLD


def test_the_lower_limit_of_organization_and_project_counts() -> None:
    project = {"x-ratelimit-limit-project-tokens": "20000", "x-ratelimit-remaining-project-tokens": "7"}
    assert told_limits(HEADERS | project) == TOLD.model_copy(update={"tokens_per_min": 20_000})


@pytest.mark.parametrize("value", ["", " ", "-1", "1e9", "1.5", "many", "９", "1" * 14, "0"])
def test_a_limit_that_is_none_counts_as_absent(value: str) -> None:
    assert told_limits({"x-ratelimit-limit-tokens": value}) is None


@given(st.dictionaries(st.sampled_from(sorted(HEADERS)), st.text(max_size=20)))
def test_whatever_comes_is_read_or_left_out(headers: dict[str, str]) -> None:
    told = told_limits(headers)
    assert told is None or ToldLimits.model_validate(told.model_dump()) == told


def test_they_come_with_acceptances_and_refusals_alike() -> None:
    accepted = read_create(ProviderAnswer(200, HEADERS, response()), 0)
    assert isinstance(accepted, Accepted)
    refused = read_create(ProviderAnswer(429, HEADERS, {"error": {"code": "rate_limit_exceeded", "type": "tokens"}}), 0)
    assert isinstance(refused, Rejected)
    assert accepted.limits == refused.limits == TOLD
    assert isinstance(read_create(ProviderAnswer(200, HEADERS, NOT_JSON), 0), Unknown)
    plain = read_create(ProviderAnswer(200, {}, response()), 0)
    assert isinstance(plain, Accepted)
    assert plain.limits is None
