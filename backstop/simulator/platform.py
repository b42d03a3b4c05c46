"""Events of the whole platform, by a control or the profile's calendar: outages, waves of latency, restarts, limits."""

from __future__ import annotations

from backstop.simulator.answers import HTML, HttpAnswer, failure, html
from backstop.simulator.chance import Chance
from backstop.simulator.clock import Clock, Timers
from backstop.simulator.config import PlannedEvent, Profile
from backstop.simulator.incidents import Incidents
from backstop.simulator.lifecycle import ResponseRuns
from backstop.simulator.limits import RateLimits
from backstop.simulator.webhooks import WebhookSender


class Platform:
    """The state of the platform now."""

    def __init__(
        self,
        chance: Chance,
        clock: Clock,
        timers: Timers,
        webhooks: WebhookSender,
        responses: ResponseRuns,
        incidents: Incidents,
        limits: RateLimits,
    ) -> None:
        self._chance = chance
        self._clock = clock
        self._timers = timers
        self._webhooks = webhooks
        self._responses = responses
        self._incidents = incidents
        self._limits = limits
        self._outage: PlannedEvent | None = None
        self._outages = 0
        self._wave_factor = 1.0
        self._waves = 0
        self._calls = 0
        self._calendar = 0
        self._restarts = 0

    @property
    def outage(self) -> PlannedEvent | None:
        """The outage in force, if any."""
        return self._outage

    @property
    def wave_factor(self) -> float:
        """The factor by which runs accepted now take longer."""
        return self._wave_factor

    def follow(self, profile: Profile) -> None:
        """Schedule the events of `profile` from now on, in place of those of an earlier profile."""
        self._calendar += 1
        for event in profile.events:
            self._timers.after(self._clock.real_s(event.at_s), self._befall, event, self._calendar)

    def begin_outage(self, event: PlannedEvent) -> None:
        """Begin an outage in place of the one in force, if any. With `for_s` 0 only end that one."""
        self._outages += 1
        real_s = self._clock.real_s(event.for_s)
        self._outage = event if real_s > 0 else None
        now_s = self._clock.now_s()
        self._webhooks.held_until_s = now_s + real_s if event.webhooks == "held" else 0.0
        self._webhooks.lost_until_s = now_s + real_s if event.webhooks == "lost" else 0.0
        self._responses.runs = event.runs if real_s > 0 else "on"
        self._timers.after(real_s, self._end_outage, self._outages)

    def begin_wave(self, event: PlannedEvent) -> None:
        """Make runs accepted from now on slower, for a while."""
        self._waves += 1
        self._wave_factor = event.factor
        self._timers.after(self._clock.real_s(event.for_s), self._end_wave, self._waves)

    def restart(self, event: PlannedEvent) -> int:
        """Make the open responses, or the event's share of them, stuck, and refuse connections for its duration.

        Returns the number of stuck responses.
        """
        self._restarts += 1
        if event.for_s:
            self._incidents.begin(PlannedEvent("incident", for_s=event.for_s, answer="refused", calls="all"))
        return self._responses.strand_all(event.share, f"restart/{self._restarts}")

    def refusal(self) -> HttpAnswer | None:
        """The answer of the outage in force to this call, if it strikes."""
        outage = self._outage
        if outage is None or outage.mode == "none":
            return None
        self._calls += 1
        if outage.share < 1 and self._chance.unit("outage", str(self._calls)) >= outage.share:
            return None
        match outage.mode:
            case "html":
                return html(503)
            case "reset" | "stall":
                return HttpAnswer(500, b"", HTML, sabotage=outage.mode)
            case status:
                return failure(int(status))

    def _befall(self, event: PlannedEvent, calendar: int) -> None:
        if calendar != self._calendar:
            return
        if event.every_s:
            self._timers.after(self._clock.real_s(event.every_s), self._befall, event, calendar)
        match event.do:
            case "outage":
                self.begin_outage(event)
            case "wave":
                self.begin_wave(event)
            case "restart":
                self.restart(event)
            case "incident":
                self._incidents.begin(event)
            case "limits":
                self._limits.begin_change(event)

    def _end_outage(self, number: int) -> None:
        if number == self._outages:
            self._outage = None
            self._responses.runs = "on"

    def _end_wave(self, number: int) -> None:
        if number == self._waves:
            self._wave_factor = 1.0
