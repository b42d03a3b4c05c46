"""The provider's cache of prompts: the first request of a prefix and key writes it, later ones read it.

As OpenAI's guide says: prompts from 1,024 tokens on, in steps of 128, routed by the beginning of the prompt and
`prompt_cache_key`; above about 15 requests a minute for one of them, further ones overflow and miss.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from backstop.simulator.clock import Clock
from backstop.simulator.records import CreateRequest

TOKENS_MIN: Final = 1_024
STEP: Final = 128
PREFIX_CHARS: Final = 1_024
"""About the 256 tokens by which requests are routed."""
PER_MINUTE_MAX: Final = 15
ENTRIES_MAX: Final = 10_000


class PromptCacheEntries:
    """Entries by project, model, prefix and key: the minute of the last request, and the requests in it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: OrderedDict[tuple[object, ...], tuple[int, int]] = OrderedDict()

    def take(self, request: CreateRequest) -> tuple[int, int]:
        """The tokens of an accepted request that are read from the cache, and those that are written to it."""
        whole = request.input_tokens // STEP * STEP
        if whole < TOKENS_MIN:
            return 0, 0
        prefix = request.input_text[:PREFIX_CHARS]
        entry = (request.project, request.model, prefix, request.body.get("prompt_cache_key"))
        minute = int(self._clock.now_s() // 60)
        known = self._entries.pop(entry, None)
        requests = known[1] + 1 if known is not None and known[0] == minute else 1
        self._entries[entry] = minute, requests
        if len(self._entries) > ENTRIES_MAX:
            self._entries.popitem(last=False)
        if known is None:
            return 0, whole
        return (whole, 0) if requests <= PER_MINUTE_MAX else (0, 0)
