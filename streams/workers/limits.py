"""Limits of the submitter and of the poller; `streams.workers.settings` makes them of settings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitterLimits:
    concurrency: int = 64
    """Creates in flight."""
    memory_ms: int = 180_000
    """How far back command ids are read when a partition is taken over."""
    memory_ids_max: int = 20_000
    """Command ids remembered per partition."""
    bodies_memory_bytes_max: int = 256 << 20
    """Memory for large requests in flight."""
    drain_ms: int = 60_000
    """Time for creates in flight after a stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollerLimits:
    concurrency: int = 64
    """Polls and cancels in flight."""
    tries_max: int = 3
    """Calls of one poll before it counts as failed."""
    queue_max: int = 20_000
    """Polls and cancels that wait."""
    repeat_ms: int = 500
    """Wait before the second try; twice that before the third, and so on."""
    drain_ms: int = 45_000
    """Time for calls in flight after a stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowLimits:
    concurrency: int
    """Streams that are read at a time."""
    coalesce_ms: int
    """How long partial output is collected before it is published."""
    event_bytes_max: int
    response_bytes_max: int
    linger_s: float = 5.0
    """How long a stream is read after its response is known to have ended: its last events may still come."""
