"""What the submitter and the poller have in common: what they are given."""

from dataclasses import dataclass, field

from backstop.runtime.blobs import Bodies
from backstop.runtime.kafka.reporting import Reporting
from streams.early_creates import EarlyCreates
from streams.policy.polls import Webhooks
from streams.workers.access import ProviderAccess
from streams.workers.commands import Commands
from streams.workers.metrics import WorkerMetrics


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """One set for the submitter and the poller of a process."""

    access: ProviderAccess
    reporting: Reporting[WorkerMetrics]
    bodies: Bodies
    polls: Webhooks
    """Selects the schedule of polls by whether webhooks arrive."""
    early: EarlyCreates = field(default_factory=EarlyCreates)
    """Of this process."""


class CommandWorker:
    """Performs the commands of one topic in the partitions of its group member."""

    def __init__(self, group: Commands, parts: WorkerParts) -> None:
        self._group = group
        self._provider = parts.access.provider
        self._lanes = parts.access.lanes
        self._pauses = parts.access.pauses
        self._rate = parts.access.rate
        self._publisher = parts.reporting.publisher
        self._metrics = parts.reporting.metrics
        self._now_ms = parts.reporting.now_ms
        self._bodies = parts.bodies
        self._polls = parts.polls
