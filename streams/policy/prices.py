"""What tokens cost: a list of prices, and the exact cost of a sum of tokens. Pure; the files are read by the caller.

Rules:
- Money is whole attodollars (10^-18 dollars). A price has up to six decimals per million tokens, and three percentages
  may scale it (tier, window, long prompts), so no product is ever rounded, and any sum of parts equals the whole.
- What has no price is never free: `cost` returns None for a model, tier, window or tool without a price.
- Cached and written tokens are parts of the input. Reasoning tokens are part of the output.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from schemas.spend_caps import TokenPrices

ATTO: Final = 10**18
PRICE_MAX: Final = 1_000_000
"""Dollars per million tokens: beyond any price, so that a slip (a price per thousand, in cents) shows at the start."""
ROWS_MAX: Final = 10_000
LONG_INPUT_TOKENS: Final = 272_000
"""Prompts above this have a price of their own (OpenAI's price page, 2026)."""
STANDARD_TIERS: Final = frozenset({"", "auto", "default", "standard"})
_TIER_MEANT: Final = {"fast": "priority"}
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")

Price = Annotated[Decimal, Field(ge=0, le=PRICE_MAX, decimal_places=6, allow_inf_nan=False)]
"""Dollars per million tokens (per thousand calls for tools)."""
Percent = Annotated[int, Field(ge=0, le=10_000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class PricesError(Exception):
    """The price list can't be used; the message says where and why."""


class _PriceModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LongPercent(_PriceModel):
    """Factors for long prompts (`LONG_INPUT_TOKENS`)."""

    input: Percent = 100
    output: Percent = 100


class Row(_PriceModel):
    """The prices of one model from one day on."""

    model: Name
    aliases: tuple[Name, ...] = ()
    valid_from: date
    input: Price
    cached_input: Price | None = None
    """As `input` if absent."""
    cache_write: Price | None = None
    """As `input` if absent."""
    output: Price
    tier_percent: dict[Name, Percent] = {}
    window_percent: dict[Name, Percent] | None = None
    """Replaces the list's own `window_percent` for this model."""
    long_percent: LongPercent = LongPercent()


class Tools(_PriceModel):
    """Dollars per 1,000. Absent: no price is known."""

    web_search: Price | None = None
    file_search: Price | None = None
    container: Price | None = None


class PriceFile(_PriceModel):
    """The form of a price list."""

    as_of: date
    tools: Tools = Tools()
    window_percent: dict[Name, Percent] = {}
    price: tuple[Row, ...] = Field(default=(), max_length=ROWS_MAX)

    @model_validator(mode="after")
    def _one_row_a_day(self) -> "PriceFile":
        seen: set[tuple[str, date]] = set()
        for row in self.price:
            for name in (row.model, *row.aliases):
                if (name, row.valid_from) in seen:
                    raise ValueError(f"two prices of {name} are valid from {row.valid_from}: keep one")
                seen.add((name, row.valid_from))
        return self


@dataclass(frozen=True, slots=True)
class Used:
    """Tokens and calls, of one attempt or summed over many with equal `Priced`. Cached and written tokens together are
    no more than the input.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    web_search_calls: int = 0
    file_search_calls: int = 0
    containers: int = 0


@dataclass(frozen=True, slots=True)
class Priced:
    """What decides the price of tokens."""

    day: date
    model: str
    served: str = ""
    """The model that served the response, if it is not the one that was asked for."""
    tier: str = ""
    window: str = ""
    long: bool = False

    @property
    def ran(self) -> str:
        return self.served or self.model


class Prices:
    """The prices in force."""

    def __init__(self, file: PriceFile) -> None:
        self.as_of = file.as_of
        self._file = file
        self._rows: dict[str, list[Row]] = {}
        for row in sorted(file.price, key=lambda row: row.valid_from, reverse=True):
            for name in (row.model, *row.aliases):
                self._rows.setdefault(name, []).append(row)

    @property
    def models(self) -> frozenset[str]:
        """The models that have a price on some day."""
        return frozenset(self._rows)

    def row_of(self, model: str, day: date) -> Row | None:
        """The latest row that is valid on that day, of the model or of what its dated name is a version of."""
        rows = self._rows.get(model) or self._rows.get(_DATED.sub("", model)) or ()
        return next((row for row in rows if row.valid_from <= day), None)

    def cost(self, what: Priced, used: Used) -> int | None:
        """Attodollars; None if something that was used has no price."""
        row = self.row_of(what.served, what.day) if what.served else None
        row = row or self.row_of(what.model, what.day)
        tools = self._tools(used)
        percent = None if row is None else self._percent(row, what)
        if row is None or tools is None or percent is None:
            return None
        by_input, by_output = (row.long_percent.input, row.long_percent.output) if what.long else (100, 100)
        cached, written = used.cached_tokens, used.cache_write_tokens
        fresh = used.input_tokens - cached - written
        inputs = (
            fresh * _micro(row.input)
            + cached * _micro(row.input if row.cached_input is None else row.cached_input)
            + written * _micro(row.input if row.cache_write is None else row.cache_write)
        )
        # Dollars per million tokens with six decimals: 10^-12 dollars a token; three percentages: 10^-6 more.
        return (inputs * by_input + used.output_tokens * _micro(row.output) * by_output) * percent + tools

    def token_prices(self, what: Priced, tools: frozenset[str] = frozenset()) -> TokenPrices | str:
        """The prices of `what`, rounded up to whole picodollars, to be stamped; or what has no price.

        :param tools: names of `Tools`.
        """
        row = self.row_of(what.model, what.day)
        if row is None:
            return f"the model {what.model!r}"
        percent = self._percent(row, what)
        if percent is None:
            return f"the service tier {what.tier!r} of {what.model!r}"
        unpriced = sorted(name for name in tools if getattr(self._file.tools, name) is None)
        if unpriced:
            return f"the tool {unpriced[0]}"

        def scaled(price: Decimal | None) -> int:
            return -(-_micro(row.input if price is None else price) * percent // 10_000)

        def per_call(name: str) -> int:
            return _micro(getattr(self._file.tools, name) or Decimal(0)) * 1_000 if name in tools else 0

        return TokenPrices(
            input=scaled(row.input),
            cached_input=scaled(row.cached_input),
            cache_write=scaled(row.cache_write),
            output=scaled(row.output),
            long_input_percent=row.long_percent.input,
            long_output_percent=row.long_percent.output,
            web_search_call=per_call("web_search"),
            file_search_call=per_call("file_search"),
            container=per_call("container"),
        )

    def _percent(self, row: Row, what: Priced) -> int | None:
        """Percent of tier times percent of window; None if one of them has no price."""
        tier = _TIER_MEANT.get(what.tier, what.tier)
        of_tier = 100 if tier in STANDARD_TIERS else row.tier_percent.get(tier)
        windows = self._file.window_percent if row.window_percent is None else row.window_percent
        of_window = windows.get(what.window) if what.window else 100
        return None if of_tier is None or of_window is None else of_tier * of_window

    def _tools(self, used: Used) -> int | None:
        total = 0
        for calls, price in (
            (used.web_search_calls, self._file.tools.web_search),
            (used.file_search_calls, self._file.tools.file_search),
            (used.containers, self._file.tools.container),
        ):
            if calls and price is None:
                return None
            total += calls * _micro(price or Decimal(0)) * (ATTO // 10**9)  # 10^-6 dollars per thousand calls
        return total


NO_PRICES: Final = Prices(PriceFile(as_of=date(1970, 1, 1)))


def read_prices(default: str, own: str | None = None) -> Prices:
    """The shipped list, with the rows of the operator's list instead of its own for the models that this names.

    :raises PricesError: a list is no TOML, or breaks a rule.
    """
    base = _parsed(default, "the shipped price list")
    if own is None:
        return Prices(base)
    over = _parsed(own, "the price list")
    named = {name for row in over.price for name in (row.model, *row.aliases)}
    rows = tuple(row for row in base.price if named.isdisjoint((row.model, *row.aliases)))
    given = over.model_fields_set
    merged = {name: getattr(over if name in given else base, name) for name in PriceFile.model_fields}
    return Prices(PriceFile.model_construct(**(merged | {"price": (*rows, *over.price)})))


def dollars(atto: int) -> str:
    """An amount in dollars, exact, as a decimal text without needless zeros: `0.0123`."""
    whole, part = divmod(abs(atto), ATTO)
    text = f"{whole}.{part:018d}".rstrip("0").rstrip(".")
    return f"-{text}" if atto < 0 else text


def _parsed(text: str, what: str) -> PriceFile:
    try:
        raw: Mapping[str, Any] = tomllib.loads(text, parse_float=Decimal)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise PricesError(f"{what} is not TOML: {error}") from None
    try:
        return PriceFile.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PricesError(f"{what} can't be used: {where or 'list'}: {first['msg']}") from None


def _micro(price: Decimal) -> int:
    """A price in millionths of a dollar."""
    return int(price.scaleb(6))
