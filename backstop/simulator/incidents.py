"""Incidents: for a while all creates (or other calls) get the same answer, and runs that end meanwhile fail.

Several incidents may be in force at once, each for a lane (account and model) or for all. The oldest one that strikes
decides.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from backstop.simulator.answers import HTML, HttpAnswer
from backstop.simulator.chance import Chance
from backstop.simulator.clock import Clock, Timers
from backstop.simulator.config import PlannedEvent
from backstop.simulator.errors import ConfigError
from backstop.simulator.lifecycle import Fate
from backstop.simulator.limits import RateLimits
from backstop.simulator.loading import to_json
from backstop.simulator.planning import ending_of
from backstop.simulator.records import Stored
from backstop.simulator.replies import parse_reply

INCIDENTS_MAX: Final = 1000
_CALLS: Final = {"create": "creates", "poll": "polls", "stream": "polls", "items": "polls", "cancel": "cancels"}
_SHOWN: Final = ("answer", "calls", "model", "project", "message", "share", "runs", "run_code")


class ListeningSocket(Protocol):
    """Opens and closes the listening socket."""

    def want(self, *, is_open: bool) -> None:
        """Open or close the socket soon."""


@dataclass(slots=True)
class Incident:
    """One incident in force."""

    id: int
    event: PlannedEvent
    until_s: float
    calls_struck: int = 0
    runs_struck: int = 0

    def concerns(self, project: int, model: str | None) -> bool:
        """Whether the incident covers this lane."""
        return self.event.project in (None, project) and self.event.model in (None, model)


class Incidents:
    """All incidents in force. Without a `ingress` (listening socket) a connection is reset instead of refused."""

    def __init__(self, chance: Chance, clock: Clock, timers: Timers, limits: RateLimits) -> None:
        self.ingress: ListeningSocket | None = None
        self._chance = chance
        self._clock = clock
        self._timers = timers
        self._limits = limits
        self._ids = itertools.count(1)
        self._draws = itertools.count(1)
        self._all: list[Incident] = []

    @property
    def need_model(self) -> bool:
        """Whether an incident in force depends on a call's model."""
        return any(each.event.model is not None for each in self._all)

    def begin(self, event: PlannedEvent) -> int:
        """Begin an incident, for its duration or until it is ended; returns its id."""
        if len(self._all) >= INCIDENTS_MAX:
            raise ConfigError(f"more than {INCIDENTS_MAX} incidents are in force; DELETE /sim/incident ends them")
        real_s = self._clock.real_s(event.for_s) if event.for_s else math.inf
        incident = Incident(next(self._ids), event, self._clock.now_s() + real_s)
        self._all.append(incident)
        if real_s < math.inf:
            self._timers.after(real_s, self.end, incident.id)
        self._tell_ingress()
        return incident.id

    def end(self, number: int | None) -> None:
        """End the incident with this id, or all of them."""
        self._all = [each for each in self._all if number is not None and each.id != number]
        self._tell_ingress()

    def answer(self, op: str, project: int, model: str | None) -> HttpAnswer | None:
        """The answer of the incident that strikes this call, if any."""
        for each in self._all:
            event = each.event
            if (
                event.answer == "none"
                or event.calls not in ("all", _CALLS.get(op))
                or not each.concerns(project, model)
            ):
                continue
            if event.share < 1 and self._draw("incident") >= event.share:
                continue
            each.calls_struck += 1
            return self._answer(event)
        return None

    def fate(self, stored: Stored) -> Fate | None:
        """The end that an incident gives to a run that ends now, if any."""
        for each in self._all:
            event = each.event
            if event.runs == "on" or not each.concerns(stored.request.project, stored.request.model):
                continue
            if event.share < 1 and self._draw("incident-run") >= event.share:
                continue
            each.runs_struck += 1
            return "stuck" if event.runs == "stuck" else ending_of("failed", event.run_code)
        return None

    def shown(self) -> list[dict[str, Any]]:
        """For the control that lists them; `left_s` in simulated seconds, null where only a control ends it."""
        now_s = self._clock.now_s()
        return [
            {
                "incident": each.id,
                **{name: value for name, value in to_json(each.event).items() if name in _SHOWN},
                "left_s": None if each.until_s == math.inf else max(each.until_s - now_s, 0.0) * self._clock.scale,
                "calls_struck": each.calls_struck,
                "runs_struck": each.runs_struck,
            }
            for each in self._all
        ]

    def _answer(self, event: PlannedEvent) -> HttpAnswer:
        match event.answer:
            case "refused":
                # The connection was open before the incident: reset it, as on a host that goes down.
                return HttpAnswer(500, b"", HTML, sabotage="reset")
            case "reset" | "close" | "stall":
                return HttpAnswer(500, b"", HTML, sabotage=event.answer)
            case text:
                reply = parse_reply(text)
                return self._limits.reply(replace(reply, message=event.message))

    def _draw(self, purpose: str) -> float:
        return self._chance.unit(purpose, str(next(self._draws)))

    def _tell_ingress(self) -> None:
        if self.ingress is not None:
            self.ingress.want(is_open=not any(each.event.answer == "refused" for each in self._all))
