"""What one tenant may take, so that none starves the others: requests a second, bytes, open jobs, tokens a day.

A refusal says which limit it was and when to come again. The requests are counted by each process for itself; jobs and tokens
are asked from the read model; while it does not answer, its last word stands for a while, and then only what this process took is
counted: the doors stay open.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn

from prometheus_client import CollectorRegistry, Counter

from backstop.runtime.authority import NOBODYS, on_behalf_of
from backstop.runtime.http.keys import TenantLimits
from backstop.runtime.process.clock import NowMs, monotonic_s
from backstop.runtime.process.logs import get_logger
from receiver.problems import Problem, Refusal

DAY_MS = 86_400_000
LOAD_AGE_S_MAX = 1.0
"""How old the read model's word may be."""

LOAD_WITHIN_S = 1.0
LOAD_KEPT_S = 900.0
"""How long the read model's last word stands while it does not answer. A longer outage must not hold up a tenant whose jobs have ended."""

UNSEEN_MAX_S = 900.0
"""How long a job counts as open that the read model never showed: it may stand still for a while."""

TENANTS_MAX = 10_000
OPEN_JOBS_RETRY_S = 5

Limit = Literal["requests_per_s", "open_jobs_max", "tokens_per_day_max"]
CODES: Final[dict[Limit, str]] = {
    "requests_per_s": "rate_exceeded",
    "open_jobs_max": "open_jobs_exceeded",
    "tokens_per_day_max": "token_budget_exceeded",
}

log = get_logger("receiver.access.quotas")


@dataclass(frozen=True, slots=True)
class Load:
    """What the read model knows of a tenant."""

    open_jobs: int
    tokens: int
    """Of the jobs that ended since the instant asked for."""
    seen: frozenset[str]
    """Those of the job ids asked for that it knows."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How many requests a tenant may send, and how many are left now, as the headers of draft-ietf-httpapi-ratelimit-headers say it."""

    quota: int
    window_s: int
    left: int
    full_in_s: int

    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Policy": f'"tenant";q={self.quota};w={self.window_s}',
            "RateLimit": f'"tenant";r={self.left};t={self.full_in_s}',
        }


NO_LOAD: Final = Load(0, 0, frozenset())

AskLoad = Callable[[str, int, Collection[str]], Awaitable[Load]]
"""`(tenant, since_ms, job_ids)`; raises whatever the database has."""


async def knows_no_load(_tenant: str, _since_ms: int, _job_ids: Collection[str]) -> Load:
    """Where no read model is at hand: only what this process took counts."""
    return NO_LOAD


@dataclass(slots=True)
class _Tenant:
    tokens: float = 0.0
    filled_at_s: float | None = None
    load: Load = field(default_factory=lambda: NO_LOAD)
    known_at_s: float = 0.0
    asked_at_s: float | None = None
    day: int = -1
    unseen: dict[str, float] = field(default_factory=dict)
    """Jobs taken here that the read model has not shown, with when."""
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Quotas:
    def __init__(
        self, limits_of: Callable[[str], TenantLimits], ask_load: AskLoad, now_ms: NowMs, registry: CollectorRegistry
    ) -> None:
        self._limits_of = limits_of
        self._ask_load = ask_load
        self._now_ms = now_ms
        self._tenants: dict[str, _Tenant] = {}
        self._refused = Counter(
            "backstop_quota_refused_total", "Requests beyond a limit of their tenant.", ("limit",), registry=registry
        )
        self._load_failed = Counter(
            "backstop_quota_load_failed_total",
            "Times the read model did not say what a tenant has open.",
            registry=registry,
        )

    def check_rate(self, tenant: str) -> Rate | None:
        """Count one request; what is left, or None where the tenant has no limit.

        :raises Refusal: 429, too many at the moment.
        """
        limits = self._limits_of(tenant)
        rate = limits.requests_per_s
        if rate is None:
            return None
        burst = float(limits.requests_burst or max(1, round(2 * rate)))
        state, now_s = self._of(tenant), monotonic_s()
        if state.filled_at_s is None:
            state.tokens = burst
        else:
            state.tokens = min(burst, state.tokens + (now_s - state.filled_at_s) * rate)
        state.filled_at_s = now_s
        if state.tokens < 1:
            wait_s = (1 - state.tokens) / rate
            none_left = Rate(int(burst), max(1, round(burst / rate)), 0, max(1, round(wait_s)))
            self._refuse("requests_per_s", f"This tenant may send {rate:g} requests a second.", wait_s, none_left)
        state.tokens -= 1
        return Rate(
            int(burst), max(1, round(burst / rate)), int(state.tokens), max(1, round((burst - state.tokens) / rate))
        )

    def bytes_max(self, tenant: str, of_all: int) -> int:
        """The largest submission of a tenant, where `of_all` is the largest of anybody."""
        own = self._limits_of(tenant).submission_bytes_max
        return of_all if own is None else min(own, of_all)

    async def admit(self, tenant: str, job_id: str) -> None:
        """Count one more open job; `release` it if it is not taken after all.

        :raises Refusal: 429, the tenant has as many jobs open as it may, or has used its tokens of the day.
        """
        limits = self._limits_of(tenant)
        if limits.open_jobs_max is None and limits.tokens_per_day_max is None:
            return
        state = self._of(tenant)
        await self._refresh(tenant, state)
        if limits.tokens_per_day_max is not None and state.load.tokens >= limits.tokens_per_day_max:
            left_s = (DAY_MS - self._now_ms() % DAY_MS) / 1000
            self._refuse(
                "tokens_per_day_max",
                f"This tenant's {limits.tokens_per_day_max} tokens of the day are used; the day ends at midnight UTC.",
                left_s,
            )
        if job_id in state.unseen:
            return  # sent again after nobody acknowledged it: it has its place
        if limits.open_jobs_max is not None and state.load.open_jobs + len(state.unseen) >= limits.open_jobs_max:
            self._refuse(
                "open_jobs_max",
                f"This tenant may have {limits.open_jobs_max} jobs open at one time; one must end first.",
                OPEN_JOBS_RETRY_S,
            )
        state.unseen[job_id] = monotonic_s()

    def release(self, tenant: str, job_id: str) -> None:
        """The job was not taken."""
        if tenant in self._tenants:
            self._tenants[tenant].unseen.pop(job_id, None)

    async def _refresh(self, tenant: str, state: _Tenant) -> None:
        async with state.asking:
            now_s, now_ms = monotonic_s(), self._now_ms()
            day = now_ms // DAY_MS
            fresh = state.asked_at_s is not None and now_s - state.asked_at_s < LOAD_AGE_S_MAX
            if fresh and day == state.day:
                return
            try:
                # The door's own question: it must not wait behind the reads of the tenant that it is about.
                with on_behalf_of(NOBODYS.owner):
                    async with asyncio.timeout(LOAD_WITHIN_S):
                        state.load = await self._ask_load(tenant, day * DAY_MS, tuple(state.unseen))
            except Exception as error:  # whatever the read model has, it must not stop submissions
                self._load_failed.inc()
                log.warning("load_unknown", error_type=type(error).__name__)
                # The last word stands: a tenant that slows the read model down must not lift its own limits by that.
                known = state.load if now_s - state.known_at_s < LOAD_KEPT_S else NO_LOAD
                state.load = Load(known.open_jobs, known.tokens if day == state.day else 0, frozenset())
            else:
                state.known_at_s = now_s
            state.asked_at_s, state.day = now_s, day
            gone_before_s = now_s - UNSEEN_MAX_S
            for job_id, since_s in list(state.unseen.items()):
                if job_id in state.load.seen or since_s < gone_before_s:
                    del state.unseen[job_id]

    def _of(self, tenant: str) -> _Tenant:
        found = self._tenants.get(tenant)
        if found is None:
            if len(self._tenants) >= TENANTS_MAX:
                self._tenants.pop(next(iter(self._tenants)))
            found = self._tenants[tenant] = _Tenant()
        return found

    def _refuse(self, limit: Limit, sentence: str, wait_s: float, rate: Rate | None = None) -> NoReturn:
        self._refused.labels(limit).inc()
        retry_after_s = max(1, -int(-wait_s // 1))
        raise Refusal(
            Problem(
                429,
                CODES[limit],
                f"{sentence} Limit: {limit}; come again in {retry_after_s} s.",
                headers={"Retry-After": str(retry_after_s), **(rate.headers() if rate is not None else {})},
            )
        )
