"""Partial output in memory: per job and attempt a run of events without gaps. Bounded; at the limit whole jobs are
dropped.

A listener has no queue: it keeps a position in a run and reads on at its own pace. Pure; the caller passes the time.
"""

import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import orjson

from schemas.partials import LIFECYCLE_EVENTS, PartialOutput, TruncationReason

_KIND = re.compile(r"[A-Za-z0-9_.]{1,100}")
"""Allowed event types: the type is written into an SSE line."""

EVENT_OVERHEAD_BYTES = 100
"""Approximate memory of an event besides its data: its number, list entries and object header."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event as the provider sent it, except that the first ones lack their `response`."""

    number: int
    kind: str
    data: bytes

    @property
    def is_output(self) -> bool:
        return self.kind not in LIFECYCLE_EVENTS


class Run:
    """The events of one response after number `start_after`, without a gap.

    A record that skips events restarts the run after the gap. Records that start before the run (a next owner publishes
    all events again) are kept as a second run until that has caught up; then it replaces the first.
    """

    def __init__(self, attempt: int, response_id: str, start_after: int) -> None:
        self.attempt = attempt
        self.response_id = response_id
        self.start_after = start_after
        self.end_number: int | None = None
        """Number of the provider's terminal event; no event follows it."""
        self.truncated: TruncationReason | None = None
        self.events: list[Event] = []
        self._own_bytes = 0
        self._again: Run | None = None

    @property
    def last(self) -> int:
        return self.events[-1].number if self.events else self.start_after

    @property
    def has_output(self) -> bool:
        return any(event.is_output for event in reversed(self.events))

    @property
    def size_bytes(self) -> int:
        return self._own_bytes + (self._again.size_bytes if self._again is not None else 0)

    def after(self, number: int) -> Iterator[Event]:
        """The events with numbers above `number`, in order, as of this call."""
        return iter(self.events[bisect_right(self.events, number, key=lambda event: event.number) :])

    def take(self, partial: PartialOutput) -> None:
        if partial.after < self.start_after and self._again is None:
            self._again = Run(self.attempt, self.response_id, partial.after)
        if self._again is not None:
            if partial.after <= self._again.last:
                self._again.append(partial)
            if self._again.last >= self.last:
                self.start_after, self.events = self._again.start_after, self._again.events
                self._own_bytes, self._again = self._again.size_bytes, None
        if partial.after >= self.start_after:
            if partial.after > self.last:
                self.start_after, self.events, self._own_bytes = partial.after, [], 0
            self.append(partial)
        self.end_number = self.end_number if partial.end_number is None else partial.end_number
        self.truncated = self.truncated or partial.truncated

    def append(self, partial: PartialOutput) -> None:
        for event in partial.events:
            number, kind = event.get("sequence_number"), event.get("type")
            if isinstance(number, int) and isinstance(kind, str) and _KIND.fullmatch(kind) and number > self.last:
                data = orjson.dumps(event)
                self.events.append(Event(number, kind, data))
                self._own_bytes += len(data) + EVENT_OVERHEAD_BYTES


@dataclass(slots=True)
class JobHistory:
    """The runs of a job by attempt. If an attempt has two responses (an adopted orphan), the first to arrive counts."""

    tenant: str
    runs: Mapping[int, Run] = field(default_factory=dict)
    """Ordered by attempt. Replaced when an attempt is added, never mutated."""

    def take(self, partial: PartialOutput) -> None:
        run = self.runs.get(partial.attempt)
        if run is None:
            run = Run(partial.attempt, partial.response_id, partial.after)
            self.runs = dict(sorted([*self.runs.items(), (partial.attempt, run)]))
        if run.response_id == partial.response_id:
            run.take(partial)

    @property
    def size_bytes(self) -> int:
        return sum(run.size_bytes for run in self.runs.values())


class Histories:
    """Jobs with a record within `keep_s`, up to `bytes_max`; above it the least recently updated job is dropped."""

    def __init__(self, bytes_max: int, keep_s: float) -> None:
        self._bytes_max = bytes_max
        self._keep_s = keep_s
        self._jobs: OrderedDict[str, JobHistory] = OrderedDict()
        self._heard_at_s: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        self.size_bytes = 0

    @property
    def jobs(self) -> Mapping[str, JobHistory]:
        return self._jobs

    def get(self, job_id: str, tenant: str) -> JobHistory | None:
        history = self._jobs.get(job_id)
        return history if history is not None and history.tenant == tenant else None

    def take(self, partial: PartialOutput, now_s: float) -> None:
        history = self._jobs.setdefault(partial.job_id, JobHistory(partial.tenant))
        if history.tenant == partial.tenant:
            history.take(partial)
        self._jobs.move_to_end(partial.job_id)
        self._heard_at_s[partial.job_id] = now_s
        size_bytes = history.size_bytes
        self.size_bytes += size_bytes - self._sizes.get(partial.job_id, 0)
        self._sizes[partial.job_id] = size_bytes
        while self._jobs and (
            self.size_bytes > self._bytes_max or self._heard_at_s[next(iter(self._jobs))] < now_s - self._keep_s
        ):
            self._forget(next(iter(self._jobs)))

    def _forget(self, job_id: str) -> None:
        del self._jobs[job_id], self._heard_at_s[job_id]
        self.size_bytes -= self._sizes.pop(job_id)
