"""Limits of one tenant, so that none starves the others: requests per second, bytes, open jobs, tokens per day.

A refusal names the limit and when to send again. Each process counts requests for itself. Open jobs and tokens come
from the read model. While it does not answer, its last answer is used for `LOAD_KEPT_S`; after that only the jobs
accepted by this process count, so an outage of the read model does not stop submissions.
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
"""Age up to which the read model's last answer is used without asking again."""

LOAD_WITHIN_S = 1.0
LOAD_KEPT_S = 900.0
"""How long the read model's last answer is used while it does not answer. After a longer outage it must not block a
tenant whose jobs have ended meanwhile.
"""

UNSEEN_MAX_S = 900.0
"""How long an accepted job counts as open while the read model does not show it: the projector may lag for a while."""

DOUBTED_S = 90.0
"""How long a job counts that the log did not acknowledge. The producer sends it for 30 s at most."""

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
    """A tenant's usage, from the read model."""

    open_jobs: int
    tokens: int
    """Used by the jobs that ended since `since_ms`."""
    seen: frozenset[str]
    """Those of the given job ids that the read model has."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A tenant's request rate and what is left of it, for the headers of draft-ietf-httpapi-ratelimit-headers."""

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
"""`(tenant, since_ms, job_ids)`. Raises any error of the database."""


async def knows_no_load(_tenant: str, _since_ms: int, _job_ids: Collection[str]) -> Load:
    """For a process without a read model: only the jobs accepted by it count."""
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
    """Jobs accepted by this process that the read model has not shown, with the monotonic time of each."""
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
            "Queries of a tenant's usage that the read model did not answer.",
            registry=registry,
        )

    def check_rate(self, tenant: str) -> Rate | None:
        """Count one request. Returns what is left, or None if the tenant has no limit.

        :raises Refusal: 429, the tenant's rate is exceeded.
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
            self._refuse("requests_per_s", f"This tenant may send {rate:g} requests per second.", wait_s, none_left)
        state.tokens -= 1
        return Rate(
            int(burst), max(1, round(burst / rate)), int(state.tokens), max(1, round((burst - state.tokens) / rate))
        )

    def bytes_max(self, tenant: str, of_all: int) -> int:
        """The largest submission of a tenant: its own limit, at most `of_all`."""
        own = self._limits_of(tenant).submission_bytes_max
        return of_all if own is None else min(own, of_all)

    async def admit(self, tenant: str, job_id: str) -> None:
        """Count one more open job. The caller must `release` it if the job is not accepted.

        :raises Refusal: 429, the tenant has reached its open jobs or its tokens of the day.
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
                f"This tenant has used its {limits.tokens_per_day_max} tokens of the day, which ends at midnight UTC.",
                left_s,
            )
        if job_id in state.unseen:
            return  # repeated after a missing acknowledgement: already counted
        if limits.open_jobs_max is not None and state.load.open_jobs + len(state.unseen) >= limits.open_jobs_max:
            self._refuse(
                "open_jobs_max",
                f"This tenant may have {limits.open_jobs_max} open jobs; one must end first.",
                OPEN_JOBS_RETRY_S,
            )
        state.unseen[job_id] = monotonic_s()

    def release(self, tenant: str, job_id: str) -> None:
        """Undo `admit`: the job was not accepted."""
        if tenant in self._tenants:
            self._tenants[tenant].unseen.pop(job_id, None)

    def doubt(self, tenant: str, job_id: str) -> None:
        """The log did not acknowledge the job: it counts until the read model would show it, if the log had it."""
        state = self._tenants.get(tenant)
        if state is not None and job_id in state.unseen:
            state.unseen[job_id] = monotonic_s() - UNSEEN_MAX_S + DOUBTED_S

    async def _refresh(self, tenant: str, state: _Tenant) -> None:
        async with state.asking:
            now_s, now_ms = monotonic_s(), self._now_ms()
            day = now_ms // DAY_MS
            fresh = state.asked_at_s is not None and now_s - state.asked_at_s < LOAD_AGE_S_MAX
            if fresh and day == state.day:
                return
            try:
                # Asked on the receiver's own behalf: the query must not queue behind the tenant's reads.
                with on_behalf_of(NOBODYS.owner):
                    async with asyncio.timeout(LOAD_WITHIN_S):
                        state.load = await self._ask_load(tenant, day * DAY_MS, tuple(state.unseen))
            except Exception as error:  # no error of the read model may stop submissions
                self._load_failed.inc()
                log.warning("load_unknown", error_type=type(error).__name__)
                # Keep the last answer: a tenant must not lift its limits by slowing down the read model.
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
                f"{sentence} Limit: {limit}; send it again in {retry_after_s} s.",
                headers={"Retry-After": str(retry_after_s), **(rate.headers() if rate is not None else {})},
            )
        )
