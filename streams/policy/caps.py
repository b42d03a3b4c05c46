"""A job's own cap: what its attempts have spent, and whether a further one may begin. Pure.

Rules:
- An attempt of known usage counts with it. One that may have been taken, and whose usage is not known, counts with the
  estimate. An attempt that was refused, or that failed without usage, counts nothing.
- The estimate of an attempt is that of the submission, or what an earlier attempt used, whichever is more.
- A further attempt begins if what is spent and its estimate fit. While nothing is spent, only its input must fit: of
  the output nothing is known yet.
- Money is counted by the prices that the submission was stamped with, so a refold decides the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final

from schemas.base import Terms, Usage
from schemas.fallbacks import Fallbacks, asked_instead
from schemas.long_texts import LongText, whole
from schemas.spend_caps import PICO, SpendCap, TokenPrices
from streams.policy.prices import LONG_INPUT_TOKENS, Priced, Prices, dollars
from streams.policy.sizes import BYTES_PER_TOKEN, OUTPUT_UNKNOWN

ATTO_OF_PICO: Final = 10**6
FILE_TOKENS: Final = 1_000
"""What an image or a file that is part of the request is expected to use: its size in characters says nothing of it."""
_FILES: Final = frozenset(("file_data", "image_url", "input_audio", "data"))


class CapRefusedError(ValueError):
    """The cap of a submission can't be kept. The message is a sentence for its sender."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


@dataclass(frozen=True, slots=True)
class Spendings:
    """What the attempts of a job have spent. `guessed`: how many of them count with the estimate."""

    tokens: int = 0
    cost_pico: int = 0
    guessed: int = 0


def cap_of(
    request: Mapping[str, Any], tokens_max: int | None, cost_usd_max: Decimal | None, prices: Prices, today: date,
    fallback: Fallbacks | None = None,
) -> SpendCap | None:  # fmt: skip
    """The cap of a submission, stamped with the prices of the day; None for none. With fallbacks the dearest price of
    all models counts.

    :raises CapRefusedError: what the request asks for has no price.
    """
    if tokens_max is None and cost_usd_max is None:
        return None
    return SpendCap(
        tokens_max=tokens_max,
        cost_pico_max=None if cost_usd_max is None else int(cost_usd_max * PICO),
        prices=None if cost_usd_max is None else dearest(request, fallback, prices, today),
        input_tokens=input_tokens_of(request),
        output_tokens=output_tokens_of(request),
    )


def dearest(
    request: Mapping[str, Any], fallback: Fallbacks | None, prices: Prices, today: date
) -> TokenPrices:  # fmt: skip
    """The prices of the request, or of what is asked for instead, whichever is higher for each kind of token.

    :raises CapRefusedError: one of them has no price.
    """
    asked = [request] if fallback is None else [request, *(asked_instead(request, each) for each in fallback.to)]
    found = [prices_of(each, prices, today) for each in asked]
    return TokenPrices(**{name: max(getattr(each, name) for each in found) for name in TokenPrices.model_fields})


def prices_of(request: Mapping[str, Any], prices: Prices, today: date) -> TokenPrices:
    """The prices of what the request asks for.

    A completion window may be given up by a later attempt, so its lower price does not count.

    :raises CapRefusedError: there is no price for the model, its tier or a tool.
    """
    model, tier = str(request.get("model")), request.get("service_tier")
    found = prices.token_prices(
        Priced(today, model, tier=whole(tier) if isinstance(tier, str) else ""), _tools_of(request)
    )
    if isinstance(found, str):
        raise CapRefusedError(
            "max_cost_usd",
            f"max_cost_usd can't be kept: no price is known for {found}. Leave max_cost_usd out, give max_tokens_spent "
            "instead, or have the operator add the price.",
        )
    return found


def input_tokens_of(request: Mapping[str, Any]) -> int:
    """The expected input: characters by what a token has of them. Files and images count a fixed number."""
    return round(_size(request) / BYTES_PER_TOKEN)


def output_tokens_of(request: Mapping[str, Any]) -> int:
    most = request.get("max_output_tokens")
    if isinstance(most, int) and not isinstance(most, bool) and most > 0:
        return min(most, OUTPUT_UNKNOWN)
    return OUTPUT_UNKNOWN


def cost_pico(prices: TokenPrices | None, usage: Usage, terms: Terms | None = None) -> int:
    """What this usage costs by the stamped prices; 0 where no money is counted."""
    if prices is None:
        return 0
    long = usage.input_tokens > LONG_INPUT_TOKENS
    by_input, by_output = (prices.long_input_percent, prices.long_output_percent) if long else (100, 100)
    cached = min(max(0, usage.cached_tokens), max(0, usage.input_tokens))
    written = min(max(0, usage.cache_write_tokens or 0), max(0, usage.input_tokens) - cached)
    fresh = max(0, usage.input_tokens) - cached - written
    inputs = fresh * prices.input + cached * prices.cached_input + written * prices.cache_write
    tokens = -(-(inputs * by_input + max(0, usage.output_tokens) * prices.output * by_output) // 100)
    return tokens + calls_pico(prices, terms)


def calls_pico(prices: TokenPrices | None, terms: Terms | None) -> int:
    """What the calls of tools cost."""
    if prices is None or terms is None:
        return 0
    return (
        max(0, terms.web_search_calls or 0) * prices.web_search_call
        + max(0, terms.file_search_calls or 0) * prices.file_search_call
        + max(0, terms.containers or 0) * prices.container
    )


def tokens_of(usage: Usage) -> int:
    return max(0, usage.total_tokens, max(0, usage.input_tokens) + max(0, usage.output_tokens))


def estimate_of(cap: SpendCap, known: Iterable[Usage]) -> Usage:
    """What one attempt is expected to use: no less than the attempts before used."""
    used = tuple(known)
    return Usage(
        input_tokens=max(cap.input_tokens, *(usage.input_tokens for usage in used), 0),
        output_tokens=max(cap.output_tokens, *(usage.output_tokens for usage in used), 0),
    )


def spendings(cap: SpendCap, known: Sequence[Usage], guessed: int, beside: Spendings) -> Spendings:
    """:param guessed: attempts that may have been taken, and whose usage is not known.
    :param beside: what is known besides: second responses of one attempt, and calls of tools.
    """
    each = estimate_of(cap, known)
    return Spendings(
        sum(map(tokens_of, known)) + guessed * tokens_of(each) + beside.tokens,
        sum(cost_pico(cap.prices, usage) for usage in known) + guessed * cost_pico(cap.prices, each) + beside.cost_pico,
        guessed,
    )


def why_none(cap: SpendCap, known: Sequence[Usage], spent: Spendings) -> str | None:
    """Why no further attempt may begin; None if one may."""
    more = estimate_of(cap, known)
    if not spent.tokens and not spent.cost_pico:
        more = Usage(input_tokens=more.input_tokens)
    tokens, cost = tokens_of(more), cost_pico(cap.prices, more)
    guessed = f" ({spent.guessed} of unknown usage by estimate)" if spent.guessed else ""
    what = "a further attempt" if spent.tokens or spent.cost_pico else "its input alone"
    if cap.tokens_max is not None and spent.tokens + tokens > cap.tokens_max:
        return (
            f"max_tokens_spent is {cap.tokens_max:,}: {spent.tokens:,} tokens are spent{guessed}, and {what} needs "
            f"about {tokens:,}"
        )
    if cap.cost_pico_max is not None and spent.cost_pico + cost > cap.cost_pico_max:
        return (
            f"max_cost_usd is ${_usd(cap.cost_pico_max)}: ${_usd(spent.cost_pico)} are spent{guessed}, and {what} "
            f"needs about ${_usd(cost)}"
        )
    return None


def _usd(pico: int) -> str:
    return dollars(pico * ATTO_OF_PICO)


def _tools_of(request: Mapping[str, Any]) -> frozenset[str]:
    """The tools that are paid by call, as the price list names them."""
    tools = request.get("tools")
    kinds = [str(tool.get("type")) for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    named = {"web_search": "web_search", "file_search": "file_search", "code_interpreter": "container"}
    return frozenset(price for kind in kinds for name, price in named.items() if kind.startswith(name))


def _size(value: Any, name: str = "") -> float:
    """Characters of the texts in a request, without its frame."""
    match value:
        case str() if (name in _FILES and len(value) > FILE_TOKENS) or value.startswith("data:"):
            return FILE_TOKENS * BYTES_PER_TOKEN
        case str() if name not in ("model", "type", "role"):
            return len(value.utf8 if isinstance(value, LongText) else value.encode(errors="replace"))
        case dict():
            return sum(_size(each, key) for key, each in value.items())
        case list():
            return sum(_size(each, name) for each in value)
        case _:
            return 0
