"""Composes the parts of one server. The routes use it; it has no HTTP code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from backstop.simulator.chance import Chance, Faults
from backstop.simulator.clock import Clock, Timers
from backstop.simulator.config import EndpointProfile, SimulatorConfig
from backstop.simulator.delivery import Deliverer
from backstop.simulator.incidents import Incidents
from backstop.simulator.lanes import LaneCounts
from backstop.simulator.ledgers import LEDGER_NAMES, Ledgers
from backstop.simulator.lifecycle import ResponseRuns
from backstop.simulator.limits import RateLimits
from backstop.simulator.loading import merge_profile
from backstop.simulator.platform import Platform
from backstop.simulator.prompt_cache import PromptCacheEntries
from backstop.simulator.records import Continuations, JobTallies
from backstop.simulator.webhooks import WebhookSender
from backstop.simulator.wire import Wire


class Simulator:
    """All state of one server. Only the ledgers' files outlive the process."""

    def __init__(self, config: SimulatorConfig) -> None:
        profile = config.profile
        self.profile = profile
        self.endpoints = config.endpoints
        self.projects = {key: index for index, key in enumerate(config.api_keys)}
        self.clock = Clock(config.time_scale)
        self.timers = Timers(self.clock)
        self.chance = Chance(config.seed)
        self.faults = Faults(profile, self.chance)
        self.ledgers = Ledgers(self.clock, config.ledger_dir)
        self.tallies = JobTallies()
        self.continuations = Continuations()
        self.prompt_cache = PromptCacheEntries(self.clock)
        self.limits = RateLimits(profile, self.clock, self.chance)
        self.deliverer = Deliverer(profile.webhooks, self.clock, self.timers, self.ledgers.deliveries)
        self.webhooks = WebhookSender(profile, self.chance, self.faults, self.clock, self.timers, self.deliverer)
        self.responses = ResponseRuns(
            profile, self.chance, self.clock, self.timers, self.webhooks, self.ledgers, self.tallies
        )
        self.incidents = Incidents(self.chance, self.clock, self.timers, self.limits)
        self.responses.fate = self.incidents.fate
        self.platform = Platform(
            self.chance, self.clock, self.timers, self.webhooks, self.responses, self.incidents, self.limits
        )
        self.lanes = LaneCounts(self.clock)
        self.wire = Wire(profile)
        self.struck: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.repeats = 0
        self._started_ms = self.clock.wall_ms()
        self.deliverer.use(config.endpoints)

    def start(self) -> None:
        """Begin: needs a running loop."""
        self.deliverer.start()
        self.platform.follow(self.profile)

    def begin_close(self) -> None:
        """Release every held connection."""
        self.wire.closing.set()

    async def close(self) -> None:
        """Stop timers and deliveries, and close the ledgers."""
        self.begin_close()
        self.timers.close()
        await self.deliverer.close()
        self.ledgers.close()

    def change_profile(self, changes: Mapping[str, Any]) -> None:
        """Merge `changes` into the profile in force. After a ConfigError it is unchanged."""
        profile = merge_profile(self.profile, changes)
        calendar_changed = profile.events != self.profile.events
        self.profile = profile
        self.faults.use(profile)
        self.limits.profile = profile
        self.deliverer.profile = profile.webhooks
        self.webhooks.profile = profile
        self.responses.profile = profile
        self.wire.profile = profile
        if calendar_changed:
            self.platform.follow(profile)

    def use_endpoints(self, endpoints: tuple[EndpointProfile, ...]) -> None:
        """Send webhooks to these endpoints from now on."""
        self.endpoints = endpoints
        self.deliverer.use(endpoints)

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and the number of objects held now."""
        return {
            "uptime_ms": self.clock.wall_ms() - self._started_ms,
            "time_scale": self.clock.scale,
            "creates_accepted": self.ledgers.creates.last,
            "repeats": self.repeats,
            "open": self.responses.open,
            "in_memory": len(self.responses),
            "ended": dict(self.responses.ends),
            "cost": dict(self.responses.cost),
            "calls": dict(self.answered),
            "faults": dict(self.struck),
            "webhooks": dict(self.deliverer.counts.outcomes),
            "webhooks_pending": self.deliverer.pending,
            "timers_pending": len(self.timers),
            "ledgers": {name: self.ledgers.by_name(name).last for name in LEDGER_NAMES},
        }
