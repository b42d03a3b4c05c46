"""Rate limits of each key and model: requests and tokens per minute, tokens per day; their headers, and the refusals.

A key may have a limit of tokens over all its models, too. Limits may change while the server runs: a bucket keeps what
is in it, up to its new size. Buckets fill in real time, as clients measure "per minute" by their own clocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Final

from backstop.simulator.answers import HttpAnswer, error, html
from backstop.simulator.chance import Chance
from backstop.simulator.clock import Clock
from backstop.simulator.config import PlannedEvent, Profile
from backstop.simulator.errors import ConfigError
from backstop.simulator.records import CreateRequest
from backstop.simulator.replies import QUOTA_CODES, Reply, go_duration

LANES_MAX: Final = 1000
CHANGES_MAX: Final = 100
MINUTE_S: Final = 60.0
DAY_S: Final = 86_400.0

Lane = tuple[int, str]
"""Index of the key, and model."""

_FORMS: Final = ("seconds", "fraction", "ms", "date", "none")


@dataclass(slots=True)
class TokenBucket:
    """Fills by `limit` per `span_s`, up to the amount of `burst_s`; 0 = no limit."""

    limit: int
    burst_s: float
    level: float
    at_s: float
    span_s: float = MINUTE_S

    @property
    def capacity(self) -> float:
        """The most the bucket holds; at least one request."""
        return max(self.limit * self.burst_s / self.span_s, 1.0)

    def refill(self, now_s: float) -> None:
        """Add the amount since the last call."""
        self.level = min(self.level + (now_s - self.at_s) * self.limit / self.span_s, self.capacity)
        self.at_s = now_s

    def change(self, limit: int, burst_s: float, now_s: float) -> None:
        """Another limit from now on. What is in the bucket stays, up to its new size; a first limit begins full."""
        self.refill(now_s)
        is_first = not self.limit
        self.limit, self.burst_s = limit, burst_s
        self.level = self.capacity if is_first else min(self.level, self.capacity)

    def wait_s(self, amount: float) -> float:
        """Seconds until the bucket holds `amount`; 0 = now."""
        return max((amount - self.level) * self.span_s / self.limit, 0.0) if self.limit else 0.0

    def headers(self, kind: str) -> dict[str, str]:
        """The three headers of this limit."""
        if not self.limit:
            return {}
        return {
            f"x-ratelimit-limit-{kind}": str(self.limit),
            f"x-ratelimit-remaining-{kind}": str(max(int(self.level), 0)),
            f"x-ratelimit-reset-{kind}": go_duration((self.capacity - self.level) * self.span_s / self.limit),
        }


@dataclass(slots=True)
class _LaneBuckets:
    """The buckets of a lane, and what was asked of them."""

    requests: TokenBucket
    tokens: TokenBucket
    day: TokenBucket
    taken: int = 0
    tokens_taken: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def all(self) -> tuple[TokenBucket, ...]:
        return self.requests, self.tokens, self.day

    @property
    def any(self) -> bool:
        return any(bucket.limit for bucket in self.all())


class RateLimits:
    """The limits of all lanes, and refusals with the wait in the profile's form."""

    def __init__(self, profile: Profile, clock: Clock, chance: Chance) -> None:
        self.profile = profile
        self._clock = clock
        self._chance = chance
        self._lanes: dict[Lane, _LaneBuckets] = {}
        self._projects: dict[int, TokenBucket] = {}
        self._changes: list[tuple[PlannedEvent, float]] = []
        """Changes in force, each with its end."""
        self._refusals = 0

    def begin_change(self, event: PlannedEvent) -> None:
        """Multiply limits by the event's factor, for its duration, or until `end_changes`."""
        if len(self._changes) >= CHANGES_MAX:
            raise ConfigError(f"more than {CHANGES_MAX} changes are in force; DELETE /sim/limits ends them")
        real_s = self._clock.real_s(event.for_s) if event.for_s else math.inf
        self._changes.append((event, self._clock.now_s() + real_s))

    def end_changes(self) -> None:
        """The limits are those of the profile again."""
        self._changes.clear()

    def charge(self, lane: Lane, request: CreateRequest | None) -> HttpAnswer | None:
        """Take one request and its tokens from the limits of `lane`; returns the refusal if they do not suffice.

        A refused request is charged as a request all the same.
        """
        buckets, project = self._of(lane), self._of_project(lane[0])
        if not buckets.any and not project.limit:
            return None
        tokens = self._tokens(request)
        refused, wait_s = self._short_of(buckets, project, tokens)
        if refused != "429_requests":
            buckets.requests.level -= 1 if buckets.requests.limit else 0
        if refused is not None:
            buckets.refused[refused] = buckets.refused.get(refused, 0) + 1
            return self.refusal(refused, lane, wait_s)
        for bucket in (buckets.tokens, buckets.day, project):
            bucket.level -= tokens if bucket.limit else 0
        buckets.taken += 1
        buckets.tokens_taken += tokens
        return None

    def _short_of(self, buckets: _LaneBuckets, project: TokenBucket, tokens: int) -> tuple[str | None, float | None]:
        """The limit that does not suffice, if any, and the wait for it."""
        if (wait_s := buckets.requests.wait_s(1)) > 0:
            return "429_requests", wait_s
        limited = (("429_tokens", buckets.tokens), ("429_tokens_day", buckets.day), ("429_project_tokens", project))
        if any(bucket.limit and tokens > bucket.capacity for _, bucket in limited):
            return "429_too_large", None
        return next(((what, wait) for what, bucket in limited if (wait := bucket.wait_s(tokens)) > 0), (None, None))

    def headers(self, lane: Lane) -> dict[str, str]:
        """The limit headers of an answer to this lane; none where it has no limits or the profile hides them."""
        if not self.profile.limit_headers:
            return {}
        buckets, project = self._of(lane), self._of_project(lane[0])
        return {
            **buckets.requests.headers("requests"),
            **buckets.tokens.headers("tokens"),
            **project.headers("project-tokens"),
        }

    def shown(self) -> dict[str, Any]:
        """For the control: each lane that was used, with its limits, what is left of them, and what was refused."""
        return {
            "changes": [
                {"factor": event.factor, "model": event.model, "project": event.project} for event in self._now()
            ],
            "lanes": [
                {
                    "project": lane[0], "model": lane[1], "requests_per_minute": buckets.requests.limit,
                    "tokens_per_minute": buckets.tokens.limit, "tokens_per_day": buckets.day.limit,
                    "remaining_requests": int(buckets.requests.level), "remaining_tokens": int(buckets.tokens.level),
                    "taken": buckets.taken, "tokens_taken": buckets.tokens_taken, "refused": dict(buckets.refused),
                }
                for lane in list(self._lanes)
                for buckets in [self._of(lane)]
            ],
        }  # fmt: skip

    def refusal(self, what: str, lane: Lane, wait_s: float | None = None) -> HttpAnswer:
        """The answer for one refusal of the catalogue (`429_…`, `503_overloaded`, `html_429`)."""
        wait_s = self.profile.retry_after_real_s if wait_s is None else wait_s
        model = lane[1]
        if what == "html_429":
            return html(429, headers=self.retry_after(wait_s))
        if what[4:] in QUOTA_CODES:
            text = "You exceeded your current quota, please check your plan and billing details."
            return error(429, text, "insufficient_quota", code=what[4:])
        if what == "429_too_large":
            # Waiting does not help, so no wait is named.
            text = f"Request too large for {model} in organization org-sim on tokens per min (TPM). " + _REDUCE
            return error(429, text, "tokens", code="rate_limit_exceeded", headers=self.headers(lane))
        status, kind, code, text = _REFUSALS[what]
        headers = {**self.headers(lane), **self.retry_after(wait_s)}
        return error(status, text or self._reached(what, lane, wait_s), kind, code=code, headers=headers)

    def reply(self, reply: Reply) -> HttpAnswer:
        """The answer for a reply, with the wait in the profile's form."""
        wait_s = reply.header_wait_s
        return reply.answer({} if wait_s is None else self.retry_after(wait_s))

    def _reached(self, what: str, lane: Lane, wait_s: float) -> str:
        buckets = self._of(lane)
        bucket, unit = {
            "429_tokens": (buckets.tokens, "tokens per min (TPM)"),
            "429_tokens_day": (buckets.day, "tokens per day (TPD)"),
            "429_project_tokens": (self._of_project(lane[0]), "project tokens per min (TPM)"),
        }.get(what, (buckets.requests, "requests per min (RPM)"))
        used = max(int(bucket.capacity - bucket.level), 0)
        return (
            f"Rate limit reached for {lane[1]} in organization org-sim on {unit}: Limit {bucket.limit}, Used {used}, "
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

    def _of(self, lane: Lane) -> _LaneBuckets:
        """The lane's buckets, filled up to now, with the limits in force."""
        now_s, wanted = self._clock.now_s(), self.profile.model(lane[1])
        buckets = self._lanes.get(lane)
        if buckets is None:
            if len(self._lanes) >= LANES_MAX:
                del self._lanes[next(iter(self._lanes))]
            buckets = self._lanes[lane] = _LaneBuckets(_none(now_s), _none(now_s), _none(now_s, DAY_S))
        factor = math.prod(event.factor for event in self._now(*lane))
        per_day_s = wanted.burst_real_s * DAY_S / MINUTE_S
        for bucket, limit, burst_s in (
            (buckets.requests, wanted.requests_per_minute, wanted.burst_real_s),
            (buckets.tokens, wanted.tokens_per_minute, wanted.burst_real_s),
            (buckets.day, wanted.tokens_per_day, per_day_s),
        ):
            _fill(bucket, limit, factor, burst_s, now_s)
        return buckets

    def _of_project(self, project: int) -> TokenBucket:
        now_s, wanted = self._clock.now_s(), self.profile.projects.get(str(project))
        bucket = self._projects.setdefault(project, _none(now_s))
        limit, burst_s = (0, MINUTE_S) if wanted is None else (wanted.tokens_per_minute, wanted.burst_real_s)
        _fill(bucket, limit, math.prod(event.factor for event in self._now(project, None)), burst_s, now_s)
        return bucket

    def _now(self, project: int | None = None, model: str | None = None) -> Iterator[PlannedEvent]:
        """The changes in force; of a lane, or of a key as a whole (`model` None)."""
        now_s = self._clock.now_s()
        self._changes = [(event, until_s) for event, until_s in self._changes if now_s < until_s]
        for event, _ in self._changes:
            if project is None or (event.project in (None, project) and event.model in (None, model)):
                yield event


_REDUCE: Final = "The input or output tokens must be reduced in order to run successfully."
# Status, type, code and text; no text where it tells of a limit.
_REFUSALS: Final[dict[str, tuple[int, str, str | None, str]]] = {
    "429_requests": (429, "requests", "rate_limit_exceeded", ""),
    "429_tokens": (429, "tokens", "rate_limit_exceeded", ""),
    "429_tokens_day": (429, "tokens", "rate_limit_exceeded", ""),
    "429_project_tokens": (429, "tokens", "rate_limit_exceeded", ""),
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


def _none(now_s: float, span_s: float = MINUTE_S) -> TokenBucket:
    """A bucket without a limit."""
    return TokenBucket(0, span_s, 0.0, now_s, span_s)


def _fill(bucket: TokenBucket, limit: int, factor: float, burst_s: float, now_s: float) -> None:
    """Fill the bucket up to now, and give it the limit in force if that is another one."""
    bucket.refill(now_s)
    in_force = max(int(limit * factor), 1) if limit else 0
    if (in_force, burst_s) != (bucket.limit, bucket.burst_s):
        bucket.change(in_force, burst_s, now_s)
