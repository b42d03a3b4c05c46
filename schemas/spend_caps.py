"""What a job may spend over all its attempts: the cap of its submission, with the prices in force then."""

from typing import Final

from pydantic import Field

from schemas.base import Frozen, Int64

TOKENS_MAX: Final = 10**12
"""The greatest cap of tokens; beyond any job, so that a slip shows at once."""
COST_USD_MAX: Final = 1_000_000
PICO: Final = 10**12
"""Picodollars of a dollar. The price of a token is a whole number of them (`streams.policy.prices`)."""


class TokenPrices(Frozen):
    """Picodollars a token, and a call of a tool, as the request asks for them; rounded up."""

    input: Int64 = Field(ge=0)
    cached_input: Int64 = Field(ge=0)
    cache_write: Int64 = Field(ge=0)
    output: Int64 = Field(ge=0)
    long_input_percent: Int64 = Field(default=100, ge=0)
    """Of all prices of the input, for long prompts."""
    long_output_percent: Int64 = Field(default=100, ge=0)
    web_search_call: Int64 = Field(default=0, ge=0)
    file_search_call: Int64 = Field(default=0, ge=0)
    container: Int64 = Field(default=0, ge=0)


class SpendCap(Frozen):
    """The most that all attempts of a job may use together, and what one is expected to use."""

    tokens_max: Int64 | None = Field(default=None, ge=1)
    """Input and output together."""
    cost_pico_max: Int64 | None = Field(default=None, ge=1)
    prices: TokenPrices | None = None
    """Set where `cost_pico_max` is."""
    input_tokens: Int64 = Field(ge=0)
    """Estimate of one attempt, from the size of the request."""
    output_tokens: Int64 = Field(ge=0)
