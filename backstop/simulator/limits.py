"""Rate limits: requests and tokens per minute of each model, their headers, and the refusals.

Buckets fill in real time, as clients measure "per minute" by their own clocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

from backstop.simulator.answers import HttpAnswer, error, html
from backstop.simulator.chance import Chance
from backstop.simulator.clock import Clock
from backstop.simulator.config import ModelProfile, Profile
from backstop.simulator.records import CreateRequest
from backstop.simulator.replies import QUOTA_CODES, Reply, go_duration

MODELS_MAX: Final = 1000
_FORMS: Final = ("seconds", "fraction", "ms", "date", "none")


@dataclass(slots=True)
class TokenBucket:
    """Fills by `limit` per minute, up to the amount of `burst_s`; 0 = no limit."""

    limit: int
    burst_s: float
    level: float
    at_s: float

    @property
    def capacity(self) -> float:
        """The most the bucket holds; at least one request."""
        return max(self.limit * self.burst_s / 60.0, 1.0)

    def refill(self, now_s: float) -> None:
        """Add the amount since the last call."""
        self.level = min(self.level + (now_s - self.at_s) * self.limit / 60.0, self.capacity)
        self.at_s = now_s

    def wait_s(self, amount: float) -> float:
        """Seconds until the bucket holds `amount`; 0 = now."""
        return max((amount - self.level) * 60.0 / self.limit, 0.0) if self.limit else 0.0

    def headers(self, kind: str) -> dict[str, str]:
        """The three headers of this limit."""
        if not self.limit:
            return {}
        return {
            f"x-ratelimit-limit-{kind}": str(self.limit),
            f"x-ratelimit-remaining-{kind}": str(max(int(self.level), 0)),
            f"x-ratelimit-reset-{kind}": go_duration((self.capacity - self.level) * 60.0 / self.limit),
        }


@dataclass(slots=True)
class _ModelBuckets:
    profile: ModelProfile
    requests: TokenBucket
    tokens: TokenBucket


class RateLimits:
    """The limits of all models, and refusals with the wait in the profile's form."""

    def __init__(self, profile: Profile, clock: Clock, chance: Chance) -> None:
        self.profile = profile
        self._clock = clock
        self._chance = chance
        self._buckets: dict[str, _ModelBuckets] = {}
        self._refusals = 0

    def charge(self, model: str, request: CreateRequest | None) -> HttpAnswer | None:
        """Take one request and its tokens from the limits of `model`; returns the refusal if they do not suffice.

        A refused request is charged as a request all the same.
        """
        buckets = self._of(model)
        if not buckets.requests.limit and not buckets.tokens.limit:
            return None
        now_s = self._clock.now_s()
        buckets.requests.refill(now_s)
        buckets.tokens.refill(now_s)
        if (wait_s := buckets.requests.wait_s(1)) > 0:
            return self.refusal("429_requests", model, wait_s)
        buckets.requests.level -= 1
        tokens = self._tokens(request)
        if buckets.tokens.limit and tokens > buckets.tokens.capacity:
            return self.refusal("429_too_large", model)
        if (wait_s := buckets.tokens.wait_s(tokens)) > 0:
            return self.refusal("429_tokens", model, wait_s)
        if buckets.tokens.limit:
            buckets.tokens.level -= tokens
        return None

    def headers(self, model: str) -> dict[str, str]:
        """The limit headers of an answer about `model`; none where the model has no limits or the profile hides
        them.
        """
        if not self.profile.limit_headers:
            return {}
        buckets = self._of(model)
        if not buckets.requests.limit and not buckets.tokens.limit:
            return {}
        now_s = self._clock.now_s()
        buckets.requests.refill(now_s)
        buckets.tokens.refill(now_s)
        return {**buckets.requests.headers("requests"), **buckets.tokens.headers("tokens")}

    def refusal(self, what: str, model: str, wait_s: float | None = None) -> HttpAnswer:
        """The answer for one refusal of the catalogue (`429_…`, `503_overloaded`, `html_429`)."""
        wait_s = self.profile.retry_after_real_s if wait_s is None else wait_s
        if what == "html_429":
            return html(429, headers=self.retry_after(wait_s))
        if what[4:] in QUOTA_CODES:
            text = "You exceeded your current quota, please check your plan and billing details."
            return error(429, text, "insufficient_quota", code=what[4:])
        if what == "429_too_large":
            # Waiting does not help, so no wait is named.
            text = f"Request too large for {model} in organization org-sim on tokens per min (TPM). " + _REDUCE
            return error(429, text, "tokens", code="rate_limit_exceeded", headers=self.headers(model))
        status, kind, code, text = _REFUSALS[what]
        headers = {**self.headers(model), **self.retry_after(wait_s)}
        return error(status, text or self._reached(what, model, wait_s), kind, code=code, headers=headers)

    def reply(self, reply: Reply) -> HttpAnswer:
        """The answer for a reply, with the wait in the profile's form."""
        wait_s = reply.header_wait_s
        return reply.answer({} if wait_s is None else self.retry_after(wait_s))

    def _reached(self, what: str, model: str, wait_s: float) -> str:
        buckets = self._of(model)
        bucket, unit = (buckets.tokens, "tokens per min (TPM)") if what == "429_tokens" else (buckets.requests, _RPM)
        used = max(int(bucket.capacity - bucket.level), 0)
        return (
            f"Rate limit reached for {model} in organization org-sim on {unit}: Limit {bucket.limit}, Used {used}, "
            f"Requested 1. Please try again in {go_duration(wait_s)}."
        )

    def _tokens(self, request: CreateRequest | None) -> int:
        if request is None:
            return 0
        most = request.body.get("max_output_tokens") if self.profile.charge_max_output_tokens else None
        return max(request.input_tokens, most) if isinstance(most, int) else request.input_tokens

    def retry_after(self, wait_s: float) -> dict[str, str]:
        """The header that names the wait, in the form of the profile; for some forms none."""
        form: str = self.profile.retry_after
        if form == "any":
            self._refusals += 1
            form = _FORMS[int(self._chance.unit("retry-after", str(self._refusals)) * len(_FORMS))]
        match form:
            case "seconds":
                return {"retry-after": str(max(math.ceil(wait_s), 1))}
            case "fraction":
                return {"retry-after": f"{max(wait_s, 0.001):.3f}"}
            case "ms":
                return {"retry-after-ms": str(max(math.ceil(wait_s * 1000), 1))}
            case "date":
                at_s = self._clock.wall_ms() / 1000 + max(math.ceil(wait_s), 1)
                return {"retry-after": formatdate(at_s, usegmt=True)}
            case _:
                return {}

    def _of(self, model: str) -> _ModelBuckets:
        wanted = self.profile.model(model)
        buckets = self._buckets.get(model)
        if buckets is None or buckets.profile is not wanted:
            now_s = self._clock.now_s()
            buckets = _ModelBuckets(
                wanted,
                _full(wanted.requests_per_minute, wanted.burst_real_s, now_s),
                _full(wanted.tokens_per_minute, wanted.burst_real_s, now_s),
            )
            if len(self._buckets) >= MODELS_MAX:
                del self._buckets[next(iter(self._buckets))]
            self._buckets[model] = buckets
        return buckets


_REDUCE: Final = "The input or output tokens must be reduced in order to run successfully."
_RPM: Final = "requests per min (RPM)"
# Status, type, code and text; no text where it tells of a limit.
_REFUSALS: Final[dict[str, tuple[int, str, str | None, str]]] = {
    "429_requests": (429, "requests", "rate_limit_exceeded", ""),
    "429_tokens": (429, "tokens", "rate_limit_exceeded", ""),
    "429_slow_down": (429, "rate_limit_error", "slow_down", "Slow down: your traffic grew too fast."),
    "429_flex": (429, "resource_unavailable", "resource_unavailable", "No flex capacity at the moment."),
    "429_other": (429, "rate_limit_error", None, "Too many requests."),
    "503_overloaded": (
        503,
        "service_unavailable_error",
        "server_is_overloaded",
        "The server is currently overloaded with other requests. Please retry later.",
    ),
}


def _full(limit: int, burst_s: float, now_s: float) -> TokenBucket:
    bucket = TokenBucket(limit, burst_s, 0.0, now_s)
    bucket.level = bucket.capacity
    return bucket
