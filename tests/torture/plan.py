"""What a run is: how many jobs, for how long, on what, and the settings under which everything ends within minutes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TIME_SCALE: Final = 10.0
"""A minute at the provider passes in six seconds."""

SESSION_S: Final = 6.0
"""`session.timeout.ms` of the folds' group and of the projection's: the least that a broker allows by default."""

FREEZE_S: Final = 3 * SESSION_S
"""How long a zombie sleeps. When it wakes, its partitions have another owner."""

BOUND_S: Final = 90.0
"""How far past its deadline a job may end while processes and broker are being killed (I5)."""

DRAIN_S_MAX: Final = 30.0
"""From SIGTERM to the end of a worker."""

RETRIES_MAX: Final = 3

LAST_JOBS: Final = 24
"""Of a run with hedges: jobs that come when all is well again, every sixth of them stuck and every sixth long. A short
run on a busy machine may have no hedge before that.
"""
LAST_TIMEOUT_MS: Final = 20_000
"""Their deadline: they keep a run no longer than the jobs before them."""

SETTINGS: Final[dict[str, str]] = {
    "PYTHONUNBUFFERED": "1",
    "BACKSTOP_LOG_FORMAT": "json",
    "BACKSTOP_LOG_LEVEL": "info",
    "BACKSTOP_WORKER_SESSION_TIMEOUT_S": f"{SESSION_S:g}",
    "BACKSTOP_WORKER_HEARTBEAT_S": "1.5",
    "BACKSTOP_GROUP_SESSION_TIMEOUT_MS": "3000",
    "BACKSTOP_FIRST_POLL_MS": "3000",
    "BACKSTOP_POLL_SPACING_MIN_MS": "1000",
    "BACKSTOP_POLL_SPACING_MAX_MS": "5000",
    "BACKSTOP_POLL_REPORT_MS": "15000",
    "BACKSTOP_POLL_RATE_RECOVERY_SHARE_PER_MIN": f"{0.1 * TIME_SCALE:g}",
    "BACKSTOP_POLL_TIMEOUT_MS": "3000",
    "BACKSTOP_CLAIM_GRACE_MS": "2000",
    "BACKSTOP_SUBMISSION_CREATE_TIMEOUT_MS": "3000",
    "BACKSTOP_SUBMISSION_COMMAND_VALID_MS": "8000",
    "BACKSTOP_SUBMISSION_ADOPTION_GRACE_MS": "3000",
    "BACKSTOP_SUBMISSION_MISSING_GRACE_MS": "3000",
    "BACKSTOP_SUBMISSION_BACKOFF_BASE_MS": "200",
    "BACKSTOP_SUBMISSION_BACKOFF_MAX_MS": "3000",
    "BACKSTOP_HEDGE_SHARE": "0.2",
    "BACKSTOP_HEDGE_ENDS_MIN": "5",
    "BACKSTOP_HEDGE_LANE_REST_MS": "1000",
    "BACKSTOP_READMODEL_SWEEP_INTERVAL_MS": "5000",
}


FIRST_USD: Final = 0.1
"""The first budget of a run. Before a job has ended, four running ones reserve it: 1,000 tokens in, 2,000 out each.
Later that many are some hundred of its jobs, or a large one.
"""


def budget_of(usd: float) -> dict[str, str]:
    """The setting of processes that read the budget. A run has one tenant."""
    budget = {"tenant": "default", "per": "day", "usd": round(usd, 4), "stop": True}
    return {"BACKSTOP_BUDGETS": json.dumps([budget])}


def rate_per_s(jobs: int, minutes: float) -> float:
    """At what rate the jobs of a run are submitted."""
    return jobs / max(1.0, minutes * 60 * 0.92)


def usual_limits(jobs_per_s: float) -> str:
    """Limits that hold jobs back now and then, with room to catch up: of rates, tokens and jobs at one time, and those
    that the provider tells or that refusals show.
    """
    per_min = max(60, round(60 * jobs_per_s))
    rules: list[dict[str, object]] = [
        {"model": "gpt-5.2", "requests_per_min": 2 * per_min, "concurrent": max(20, per_min)},
        {"model": "gpt-5.2-mini", "tokens_per_min": 20_000 * per_min, "discover": True},
        {"model": "o4-*", "requests_per_min": 2 * per_min, "tokens_per_day": 10**9},
        {"tenant": "default", "requests_per_min": 4 * per_min, "weight": 2},
    ]
    return json.dumps(rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run. `folder` exists, and is ours alone."""

    folder: Path
    jobs: int
    minutes: float
    """How long things are broken and jobs submitted; the rest of a run waits for what is open, and judges."""
    seed: int
    workers: int = 3
    projections: int = 2
    partitions: int = 6
    faults: str = "torture"
    """The simulator's profile."""
    timeout_ms: int = 60_000
    """Deadline of each job."""
    short: bool = False
    """Each failpoint once, one zombie, one broker restart; instead of everything, again and again."""
    breaks: bool = True
    """False: nothing is broken but the provider, for comparison."""
    patience_s: float = BOUND_S
    """How long after the last deadline a result may still come."""
    failpoints: tuple[str, ...] = ()
    """`name=action`: arm these alone, again and again; empty for all."""
    large: tuple[str, ...] = ()
    """Large faults to go through, again and again, by name; empty for all, drawn."""
    limits: str = ""
    """As `BACKSTOP_LIMITS`. With limits, jobs have priorities, and some begin later."""
    operators: bool = False
    """Whether operators pause models, change priorities and deadlines, and retry ended jobs meanwhile."""
    budget: bool = False
    """Whether a budget stops creates again and again, and is raised."""
    hedges: bool = False
    """Whether half of the jobs may have a second attempt beside a slow one, and some are stuck. A run without one then
    proves less than it says.
    """
    patch: Path | None = None
    """A bug to plant into the copy of the code that the processes run from."""

    @property
    def code(self) -> Path:
        """Where the processes run: a copy, so that nothing changes under a run."""
        return self.folder / "code"

    @property
    def jobs_in_all(self) -> int:
        return self.jobs + (LAST_JOBS if self.hedges else 0)

    @property
    def rate_per_s(self) -> float:
        return rate_per_s(self.jobs, self.minutes)
