"""The configuration: a profile (the provider's behaviour), and the start of one server.

Names ending in `_s` are simulated seconds, divided by the time scale; `_real_s` and limits per minute are real time.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backstop.simulator.catalogue import Place, parse_rate
from backstop.simulator.errors import ConfigError
from backstop.simulator.ids import AnyIdForm
from backstop.simulator.replies import Shape, parse_code, parse_reply

DAY_S = 86_400.0


def _require(ok: bool, sentence: str) -> None:
    if not ok:
        raise ConfigError(sentence)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution of simulated seconds."""

    kind: Literal["fixed", "uniform", "lognormal"] = "fixed"
    s: float = 0.0
    low_s: float = 0.0
    high_s: float = 0.0
    median_s: float = 0.0
    sigma: float = 0.0

    def __post_init__(self) -> None:
        for name in ("s", "low_s", "high_s", "median_s", "sigma"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"{name} must be a number >= 0, not {value!r}")
        _require(self.low_s <= self.high_s, f"low_s {self.low_s} must not exceed high_s {self.high_s}")
        _require(self.kind != "lognormal" or self.median_s > 0, "a lognormal needs median_s > 0")


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """The run times of one model, and its limits; 0 = no limit."""

    queue: Distribution = Distribution("lognormal", median_s=1.0, sigma=0.5)
    run: Distribution = Distribution("lognormal", median_s=20.0, sigma=0.8)
    tiers: Mapping[str, float] = field(default_factory=dict)
    windows: Mapping[str, Distribution] = field(default_factory=dict)
    continued_factor: float = 1.0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    burst_real_s: float = 60.0
    open_max: int = 0
    open_max_answer: str | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "open_max"):
            _require(getattr(self, name) >= 0, f"{name} must be >= 0")
        _require(0 < self.burst_real_s <= 3600, "burst_real_s must be above 0 and at most 3600")
        for window in self.windows:
            _require(window in ("2h", "8h"), f"windows.{window}: there are 2h and 8h")
        _require(0 <= self.continued_factor < math.inf, "continued_factor must be a number >= 0")
        if self.open_max_answer is not None:
            parse_reply(self.open_max_answer)
        for tier, factor in self.tiers.items():
            _require(0 < factor < math.inf, f"tiers.{tier} must be a factor above 0")


@dataclass(frozen=True, slots=True)
class ProjectProfile:
    """The limit of one key over all its models; 0 = no limit."""

    tokens_per_minute: int = 0
    burst_real_s: float = 60.0

    def __post_init__(self) -> None:
        _require(self.tokens_per_minute >= 0, "tokens_per_minute must be >= 0")
        _require(0 < self.burst_real_s <= 3600, "burst_real_s must be above 0 and at most 3600")


@dataclass(frozen=True, slots=True)
class WebhookProfile:
    """How webhooks are delivered. The defaults of schedule and timeout are Standard Webhooks' recommendations."""

    schedule_s: tuple[float, ...] = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
    timeout_real_s: float = 15.0
    retry_min_real_s: float = 0.0
    ok: Literal["2xx", "200"] = "2xx"
    restamp: bool = True
    disable_on_410: bool = False
    disable_after_failures: int = 0
    concurrency: int = 32
    pending_max: int = 200_000

    def __post_init__(self) -> None:
        _require(len(self.schedule_s) >= 1, "schedule_s needs at least one entry")
        _require(all(0 <= wait < math.inf for wait in self.schedule_s), "schedule_s: each entry must be >= 0")
        _require(0 < self.timeout_real_s <= 3600, "timeout_real_s must be above 0 and at most 3600")
        _require(self.retry_min_real_s >= 0, "retry_min_real_s must be >= 0")
        _require(self.disable_after_failures >= 0, "disable_after_failures must be >= 0")
        _require(1 <= self.concurrency <= 1000, "concurrency must be 1 to 1000")
        _require(self.pending_max >= 1, "pending_max must be >= 1")


# What an incident may do in place of an answer.
BREAKAGES = ("refused", "reset", "close", "stall", "none")
OutageMode = Literal["503", "500", "html", "reset", "stall", "none"]


@dataclass(frozen=True, slots=True)
class PlannedEvent:
    """An event of the whole platform, `at_s` after the start."""

    do: Literal["outage", "wave", "restart", "incident", "limits"]
    at_s: float = 0.0
    for_s: float = 0.0
    every_s: float = 0.0
    mode: OutageMode = "503"
    share: float = 1.0
    runs: Literal["on", "fail", "stuck"] = "on"
    webhooks: Literal["sent", "held", "lost"] = "sent"
    factor: float = 5.0
    # Of an incident: what it answers, to which calls, of which lane (None = all); and what runs fail with.
    answer: str = "503"
    calls: Literal["creates", "polls", "cancels", "all"] = "creates"
    model: str | None = None
    project: int | None = None
    message: str | None = None
    run_code: str = "server_error"

    def __post_init__(self) -> None:
        _require(0 <= self.at_s < math.inf and 0 <= self.for_s < math.inf, "at_s and for_s must be numbers >= 0")
        _require(self.every_s == 0 or self.for_s < self.every_s < math.inf, "every_s must be 0 or more than for_s")
        _require(0 <= self.share <= 1, "share must be 0 to 1")
        if self.answer not in BREAKAGES:
            parse_reply(self.answer)
        parse_code(self.run_code)
        is_whole = self.model is None and self.project is None and (self.share == 1 or self.do == "restart")
        _require(self.answer != "refused" or is_whole, "answer 'refused' takes no model, project or share")
        _require(0 < self.factor < math.inf, "factor must be above 0")


RetryAfter = Literal["seconds", "fraction", "ms", "date", "none", "any"]


@dataclass(frozen=True, slots=True)
class Profile:
    """The provider's behaviour. `docs/simulator.md` describes each field."""

    rates: Mapping[str, float] = field(default_factory=dict)
    models: Mapping[str, ModelProfile] = field(default_factory=dict)
    projects: Mapping[str, ProjectProfile] = field(default_factory=dict)
    webhooks: WebhookProfile = WebhookProfile()
    retention_s: float = 30 * DAY_S
    retention_short_s: float = 600.0
    store_false: Literal["reject", "short"] = "reject"
    cancel_of_ended: Literal["final", "400", "404", "409"] = "final"
    error_404: Literal["wrapped", "bare"] = "wrapped"
    idempotency: Literal["ignored", "honoured"] = "ignored"
    conversations_locked: bool = False
    background_stream: Literal["taken", "refused"] = "taken"
    errors: Shape = "openai"
    ids: AnyIdForm = "hex"
    background: Literal["honoured", "ignored", "ignored_and_absent"] = "honoured"
    retry_after: RetryAfter = "seconds"
    retry_after_real_s: float = 1.0
    limit_headers: bool = True
    charge_max_output_tokens: bool = True
    polls_counted: bool = False
    poll_after_ms: int | None = None
    output_bytes: int = 0
    late: Distribution = Distribution("uniform", low_s=30.0, high_s=600.0)
    stall_real_s: float = 60.0
    drip_gap_real_s: float = 0.2
    slow_real_s: float = 3.0
    early_hold_real_s: float = 2.0
    responses_max: int = 200_000
    ended_max: int = 50_000
    events: tuple[PlannedEvent, ...] = ()

    def __post_init__(self) -> None:
        self._check_rates()
        for name in self.projects:
            _require(name.isascii() and name.isdecimal(), f"projects.{name}: the name is the index of a key, from 0")
        for name in ("retention_s", "retention_short_s", "stall_real_s", "drip_gap_real_s", "slow_real_s"):
            _require(0 < getattr(self, name) < math.inf, f"{name} must be a number above 0")
        _require(self.retry_after_real_s > 0, "retry_after_real_s must be above 0")
        _require(self.early_hold_real_s >= 0, "early_hold_real_s must be >= 0")
        _require(0 <= self.output_bytes <= 64 << 20, "output_bytes must be 0 to 64 MiB")
        _require(self.poll_after_ms is None or self.poll_after_ms >= 0, "poll_after_ms must be >= 0 or null")
        _require(1 <= self.ended_max <= self.responses_max, "ended_max must be 1 to responses_max")

    def _check_rates(self) -> None:
        sums: dict[Place, float] = {}
        for name, rate in self.rates.items():
            _, place = parse_rate(name)
            _require(0 <= rate <= 1, f"rates.{name} must be 0 to 1, not {rate!r}")
            sums[place] = sums.get(place, 0.0) + rate
        for place, total in sums.items():
            _require(place == "webhook" or total <= 1 + 1e-9, f"rates of place {place!r} sum to {total:.3f}, above 1")

    def model(self, name: str) -> ModelProfile:
        """The profile of a model: its own, else that of `*`, else the default."""
        return self.models.get(name) or self.models.get("*") or _DEFAULT_MODEL


_DEFAULT_MODEL = ModelProfile()


@dataclass(frozen=True, slots=True)
class EndpointProfile:
    """The address of webhooks. Each webhook has a signature for each secret (two during a rotation)."""

    url: str
    secrets: tuple[str, ...]

    def __post_init__(self) -> None:
        _require(self.url.startswith(("http://", "https://")), f"webhook url {self.url!r} must be http or https")
        _require(1 <= len(self.secrets) <= 4, "an endpoint needs 1 to 4 secrets")
        for secret in self.secrets:
            _secret_key(secret)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The HMAC keys of the secrets, in order."""
        return tuple(_secret_key(secret) for secret in self.secrets)


def _secret_key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    # 24 to 64 bytes: Standard Webhooks.
    _require(secret.startswith("whsec_") and 24 <= len(key) <= 64, "a webhook secret is whsec_ + base64 of 24-64 bytes")
    return key


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """How one server is started. Each API key is a project of its own."""

    profile: Profile = field(default_factory=Profile)
    seed: int = 1
    api_keys: tuple[str, ...] = ("sk-simulator",)
    endpoints: tuple[EndpointProfile, ...] = ()
    time_scale: float = 1.0
    ledger_dir: Path | None = None

    def __post_init__(self) -> None:
        _require(0 < self.time_scale < math.inf, "time_scale must be above 0")
        _require(len(self.api_keys) >= 1 and all(self.api_keys), "at least one api key, none of them empty")
