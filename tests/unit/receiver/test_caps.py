"""The cap of a submission at each ingress: what is stamped, and what is refused with a sentence."""

import asyncio
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from backstop.runtime.blobs import Bodies
from backstop.runtime.records import Record
from schemas.dead_letters import DeadLetter
from schemas.jobs import JobSubmitted
from schemas.spend_caps import SpendCap, TokenPrices
from streams.agents.intake import take_request
from streams.policy.caps import input_tokens_of, prices_of
from streams.policy.prices import read_prices
from streams.submission import SubmissionPolicy
from tests.simulation.blobs import MemoryBlobs
from tests.support.builders import T0
from tests.unit.receiver.ingress import Ingress, with_ingress

PRICES = """
as_of = 2020-01-01
[tools]
web_search = 10
[[price]]
model = "gpt-5"
valid_from = 1970-01-01
input = 1.25
cached_input = 0.125
output = 10
tier_percent = { flex = 50 }
long_percent = { input = 200, output = 150 }
"""
ASKED: dict[str, Any] = {"model": "gpt-5", "input": "hell" * 1_000}
STAMPED = TokenPrices(
    input=1_250_000, cached_input=125_000, cache_write=1_250_000, output=10_000_000, long_input_percent=200,
    long_output_percent=150,
)  # fmt: skip


@pytest.fixture(name="prices_file")
def _prices_file(tmp_path: Path) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(PRICES)
    return path


def cap_of(ingress: Ingress) -> SpendCap | None:
    (fact,) = [fact for fact in ingress.publisher.acked if isinstance(fact, JobSubmitted)]
    return fact.cap


def test_a_cap_is_stamped_with_prices_and_an_estimate(prices_file: Path) -> None:
    async def story(ingress: Ingress) -> None:
        status, _, _ = await ingress.submit({"request": ASKED, "max_tokens_spent": 9_000, "max_cost_usd": 0.25})
        assert status == 202
        assert cap_of(ingress) == SpendCap(
            tokens_max=9_000, cost_pico_max=250_000_000_000, prices=STAMPED, input_tokens=1_000, output_tokens=2_000
        )

    with_ingress(story, prices_file=prices_file)


def test_without_a_cap_nothing_is_stamped() -> None:
    async def story(ingress: Ingress) -> None:
        assert (await ingress.submit({"request": ASKED}))[0] == 202
        assert cap_of(ingress) is None

    with_ingress(story)


def test_headers_of_an_sdk_say_the_same(prices_file: Path) -> None:
    async def story(ingress: Ingress) -> None:
        headers = {"Backstop-Max-Tokens-Spent": "9000", "Backstop-Max-Cost-Usd": "0.25"}
        body = {**ASKED, "background": True, "max_output_tokens": 50}
        status, document, _ = await ingress.call("POST", "/v1/responses", json=body, headers=headers)
        assert status == 200, document
        cap = cap_of(ingress)
        assert cap is not None
        assert (cap.tokens_max, cap.cost_pico_max, cap.output_tokens) == (9_000, 250_000_000_000, 50)

    with_ingress(story, prices_file=prices_file)


NO_TOKENS: tuple[Any, ...] = (0, -1, 1.5, "100", True, 10**13, 1e400, [])
NO_DOLLARS: tuple[Any, ...] = (0, -0.5, "1", True, 1e-9, 2e6, 1e308, [], {})


@pytest.mark.parametrize(
    ("field", "value"),
    [*(("max_tokens_spent", each) for each in NO_TOKENS), *(("max_cost_usd", each) for each in NO_DOLLARS)],
)
def test_a_value_that_is_no_cap_is_refused_with_a_sentence(prices_file: Path, field: str, value: Any) -> None:
    async def story(ingress: Ingress) -> None:
        body = json.dumps({"request": ASKED, field: value}).replace("Infinity", "1e400")
        headers = {"Content-Type": "application/json"}
        status, document, _ = await ingress.call("POST", "/v1/jobs", data=body, headers=headers)
        assert status in (400, 422), document  # 400: a number that no JSON parser reads.
        if status == 422:
            assert document["errors"][0]["pointer"] == f"#/{field}"
        assert not ingress.publisher.acked

    with_ingress(story, prices_file=prices_file)


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-1", "0", "1e3", "", " 1", "0x10", "1,5", "9" * 40, "١"])
@pytest.mark.parametrize("header", ["Backstop-Max-Cost-Usd", "Backstop-Max-Tokens-Spent"])
def test_a_header_that_is_no_cap_is_refused(prices_file: Path, header: str, value: str) -> None:
    async def story(ingress: Ingress) -> None:
        body = {**ASKED, "background": True}
        status, document, _ = await ingress.call("POST", "/v1/responses", json=body, headers={header: value})
        if value == " 1":
            assert status == 200, "space around a header's value is none of it"
            return
        assert status == 400, document
        assert "ust be" in document["error"]["message"] or "should be" in document["error"]["message"]
        assert not ingress.publisher.acked

    with_ingress(story, prices_file=prices_file)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "unheard-of"}, "the model 'unheard-of'"),
        ({"service_tier": "priority"}, "the service tier 'priority'"),
        ({"tools": [{"type": "code_interpreter"}]}, "the tool container"),
    ],
)
def test_a_cap_of_money_without_a_price_is_refused_and_never_counts_0(
    prices_file: Path, changes: dict[str, Any], named: str
) -> None:
    async def story(ingress: Ingress) -> None:
        body = {"request": {**ASKED, **changes}}
        status, document, _ = await ingress.submit({**body, "max_cost_usd": 1})
        assert status == 422
        assert named in document["detail"]
        assert document["errors"][0]["pointer"] == "#/max_cost_usd"
        assert not ingress.publisher.acked
        assert (await ingress.submit({**body, "max_tokens_spent": 10_000}))[0] == 202

    with_ingress(story, prices_file=prices_file)


def test_over_kafka_it_is_the_same_and_a_refusal_is_the_jobs_result() -> None:
    def taken(**fields: Any) -> Any:
        value = json.dumps({"type": "submit", "request": ASKED, **fields}).encode()
        return asyncio.run(
            take_request(
                Record("requests", 0, 0, T0, b"a", value, ()), tenant="default", now_ms=T0, policy=SubmissionPolicy(),
                bodies=Bodies(MemoryBlobs(), 65_536), prices=read_prices(PRICES),
            )
        )  # fmt: skip

    (fact,) = taken(max_tokens_spent=9_000, max_cost_usd=0.25)
    assert fact.cap.prices == STAMPED
    letter, refused = taken(max_cost_usd=0.25, request={**ASKED, "model": "unheard-of"})
    assert isinstance(letter, DeadLetter)
    assert "no price is known for the model 'unheard-of'" in refused.message
    letter, refused = taken(max_cost_usd=-1)
    assert "max_cost_usd" in refused.message


def test_a_tier_scales_the_stamped_prices_and_tools_have_a_price_for_each_call() -> None:
    prices, today = read_prices(PRICES), date(2026, 1, 1)
    flex = prices_of({"model": "gpt-5-2026-01-01", "service_tier": "flex"}, prices, today)
    assert (flex.input, flex.output) == (625_000, 5_000_000)
    searching = prices_of({"model": "gpt-5", "tools": [{"type": "web_search_preview"}, 7]}, prices, today)
    assert searching.web_search_call == 10_000_000_000, "$0.01"


def test_files_and_images_count_a_fixed_number_whatever_their_size() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 400_000}
    content = [{"type": "input_text", "text": "x" * 400}, image]
    assert input_tokens_of({"model": "m", "input": [{"role": "user", "content": content}]}) == 1_100
