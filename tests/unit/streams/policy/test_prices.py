"""The list of prices: what it accepts, and what tokens cost."""

from datetime import date

import pytest

from streams.policy.prices import Priced, Prices, PricesError, Used, dollars, read_prices
from streams.price_settings import SHIPPED_PRICES

LIST = """
as_of = 2026-01-01
[tools]
web_search = 10
[window_percent]
2h = 70
8h = 60
[[price]]
model = "m"
aliases = ["alias"]
valid_from = 2026-01-10
input = 1.25
cached_input = 0.125
cache_write = 1.5625
output = 10
tier_percent = { flex = 50, priority = 200 }
long_percent = { input = 200, output = 150 }
[[price]]
model = "m"
aliases = ["alias"]
valid_from = 2026-02-01
input = 1
output = 5
"""
JANUARY, FEBRUARY = date(2026, 1, 15), date(2026, 2, 1)
USED = Used(input_tokens=1_000, cached_tokens=400, cache_write_tokens=100, output_tokens=50, reasoning_tokens=20)
COST = "0.00133125"  # (500 × 1.25 + 400 × 0.125 + 100 × 1.5625 + 50 × 10) / 1,000,000


@pytest.fixture(name="prices")
def _prices() -> Prices:
    return read_prices(LIST)


def cost(prices: Prices, used: Used = USED, day: date = JANUARY, model: str = "m", **of: object) -> str | None:
    atto = prices.cost(Priced(day, model, **of), used)  # type: ignore[arg-type]  # fields of Priced
    return None if atto is None else dollars(atto)


def test_each_kind_of_token_has_its_price_and_reasoning_is_part_of_the_output(prices: Prices) -> None:
    assert cost(prices) == COST


@pytest.mark.parametrize("tier", ["", "auto", "default", "standard"])
def test_standard_tiers_cost_the_price_itself(prices: Prices, tier: str) -> None:
    assert cost(prices, tier=tier) == COST


@pytest.mark.parametrize(
    ("of", "paid"),
    [
        ({"tier": "flex"}, "0.000665625"),
        ({"tier": "priority"}, "0.0026625"),
        ({"tier": "fast"}, "0.0026625"),
        ({"window": "8h"}, "0.00079875"),
        ({"window": "2h"}, "0.000931875"),
        ({"tier": "flex", "window": "8h"}, "0.000399375"),
        ({"long": True}, "0.0024125"),
        ({"model": "alias"}, COST),
        ({"model": "m-2026-01-03"}, COST),
        ({"model": "unheard-of", "served": "m"}, COST),
        ({"model": "m", "served": "unheard-of"}, COST),
    ],
)
def test_what_decides_a_price(prices: Prices, of: dict[str, object], paid: str) -> None:
    assert cost(prices, **of) == paid  # type: ignore[arg-type]  # fields of Priced


@pytest.mark.parametrize(
    "of",
    [
        {"model": "unheard-of"},
        {"model": ""},
        {"tier": "scale"},
        {"tier": "flex", "day": FEBRUARY},
        {"window": "24h"},
        {"day": date(2026, 1, 9)},
        {"used": Used(input_tokens=1, file_search_calls=1)},
    ],
)
def test_what_has_no_price_is_unknown_and_never_free(prices: Prices, of: dict[str, object]) -> None:
    assert cost(prices, **of) is None  # type: ignore[arg-type]  # fields of Priced


def test_a_price_is_valid_from_its_day_on_and_prices_left_out_are_those_of_the_input(prices: Prices) -> None:
    assert cost(prices, day=date(2026, 1, 31)) == COST
    assert cost(prices, day=FEBRUARY) == "0.00125"  # A price of the future changes nothing before its day.


def test_tools_cost_per_call(prices: Prices) -> None:
    assert cost(prices, Used(web_search_calls=3)) == "0.03"


def test_no_amount_is_rounded(prices: Prices) -> None:
    assert cost(prices, Used(input_tokens=1, cached_tokens=1), tier="flex", window="8h", long=True) == "0.000000075"
    assert cost(prices, Used(input_tokens=10**15, output_tokens=1)) == "1250000000.00001"


def test_rows_of_an_own_list_replace_all_rows_of_its_models() -> None:
    own = 'as_of = 2026-03-01\n[[price]]\nmodel = "m"\nvalid_from = 2026-02-10\ninput = 2\noutput = 2\n'
    prices = read_prices(LIST, own)
    assert prices.as_of == date(2026, 3, 1)
    assert cost(prices) is None
    assert cost(prices, model="alias", day=FEBRUARY) is None
    assert cost(prices, day=date(2026, 2, 10)) == "0.0021"
    assert (
        cost(prices, day=date(2026, 2, 10), window="8h") == "0.00126"
    )  # the windows are still those of the other list


ROW = '[[price]]\nmodel = "m"\nvalid_from = 2026-01-01\ninput = 1\noutput = 1\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("as_of = ", "is not TOML"),
        ("", "as_of: Field required"),
        ("as_of = 2026-01-01\n" + ROW.replace("input = 1", "input = -1"), "price.0.input"),
        ("as_of = 2026-01-01\n" + ROW.replace("input = 1", "input = nan"), "price.0.input"),
        ("as_of = 2026-01-01\n" + ROW.replace("input = 1", "input = inf"), "price.0.input"),
        ("as_of = 2026-01-01\n" + ROW.replace("input = 1", "input = 0.0000001"), "6 decimal places"),
        ("as_of = 2026-01-01\n" + ROW.replace("input = 1", "input = 1e9"), "less than or equal to 1000000"),
        ("as_of = 2026-01-01\n" + ROW.replace("input = 1", "input = 'cheap'"), "price.0.input"),
        ("as_of = 2026-01-01\n" + ROW.replace("2026-01-01", "'soon'"), "price.0.valid_from"),
        ("as_of = 2026-01-01\n" + ROW + "inptu = 1\n", "price.0.inptu"),
        ("as_of = 2026-01-01\n" + ROW + ROW, "two prices of m are valid from 2026-01-01"),
        ("as_of = 2026-01-01\n" + ROW + "tier_percent = { flex = -1 }\n", "price.0.tier_percent.flex"),
        ("as_of = 2026-01-01\n" + ROW + "tier_percent = { flex = 0.5 }\n", "price.0.tier_percent.flex"),
    ],
)
def test_a_list_that_breaks_a_rule_is_refused_with_the_place(text: str, says: str) -> None:
    with pytest.raises(PricesError) as caught:
        read_prices(LIST, text)
    assert says in str(caught.value)


def test_the_shipped_list_is_usable_and_dated() -> None:
    prices = read_prices(SHIPPED_PRICES)
    assert prices.as_of > date(2026, 1, 1)
    assert cost(prices, Used(input_tokens=1_000_000), date(2026, 11, 1), "gpt-6-astra-2026-09-03") == "10"
    assert cost(prices, Used(output_tokens=1_000_000), date(2026, 8, 1), "gpt-5.6", window="8h") == "18"


@pytest.mark.parametrize(
    ("atto", "shown"), [(0, "0"), (1, "0.000000000000000001"), (10**18, "1"), (-5 * 10**17, "-0.5")]
)
def test_amounts_are_shown_whole(atto: int, shown: str) -> None:
    assert dollars(atto) == shown
