"""The table of topics: name, key, retention, cleanup policy, writers; and the changelogs of the workers' tables."""

from dataclasses import dataclass, field
from typing import Literal

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
FOR_EVER_MS = -1
"""Kafka's value of `retention.ms` for unlimited retention."""

TopicName = Literal[
    "requests", "jobs", "responses", "submissions", "polls", "results", "dead-letters", "clock", "partials",
    "webhook-endpoints", "deliveries", "lanes", "pauses", "erasures",
]  # fmt: skip
ChangelogName = Literal["worker-jobs-changelog", "worker-responses-changelog"]

ROW_BYTES_MAX = 2 * 1024 * 1024
"""Of one changelog record. Larger than the largest record of a log, so that a row that contains one fits."""

TOMBSTONE_RETENTION_MS = 7 * DAY_MS

COMPACTION_LAG_MS = 600_000
"""To repair a foreign row, an owner may need the row that it replaced: until then compaction must keep both."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `fixed`: the number of partitions maps keys to partitions, so it must never change."""

    name: TopicName | ChangelogName
    key: str
    holds: str
    written_by: tuple[str, ...]
    retention_ms: int
    cleanup: Literal["delete", "compact", "compact,delete"] = "delete"
    fixed: bool = True
    config: tuple[tuple[str, str], ...] = field(default=())
    vital: bool = True
    """Whether processes refuse to start without this topic."""

    def full_name(self, prefix: str) -> str:
        return f"{prefix}{self.name}"


TOPICS: tuple[Topic, ...] = (
    Topic("requests", "job id", "requests of upstream services: submit, cancel", ("upstream",), 7 * DAY_MS,
          fixed=False),
    Topic("jobs", "job id", "the facts of a job (audit log)",
          ("intake", "receiver", "response fold", "submitter", "scheduler"), 90 * DAY_MS),
    Topic("responses", "response id", "the facts of a response, raw webhooks among them (audit log)",
          ("receiver", "job fold", "poller", "scheduler"), 90 * DAY_MS),
    Topic("submissions", "job id", "commands: create this attempt", ("job fold",), 24 * HOUR_MS),
    Topic("polls", "response id", "commands: retrieve, cancel", ("response fold",), 24 * HOUR_MS),
    Topic("results", "job id", "the one terminal record of a job", ("job fold",), 30 * DAY_MS,
          cleanup="compact,delete"),
    Topic("dead-letters", "as found", "records that could not be processed, raw, with origin and reason", ("all",),
          28 * DAY_MS, fixed=False),
    Topic("clock", "none", "a record per time query of a process; the broker's timestamp is the answer", ("all",),
          HOUR_MS, fixed=False, config=(("message.timestamp.type", "LogAppendTime"),)),
    Topic("webhook-endpoints", "endpoint id and kind of fact", "the webhook endpoints of tenants",
          ("receiver", "outgoing"), FOR_EVER_MS, cleanup="compact", fixed=False),
    Topic("deliveries", "delivery id", "the facts of each outgoing webhook", ("outgoing", "receiver"), 30 * DAY_MS),
    # Kafka deletes whole segments that are no longer written to. At the default segment size a partition would keep a
    # gigabyte.
    Topic("partials", "job id", "partial output of running responses, for watchers; may have gaps, decides nothing",
          ("follower",), 2 * HOUR_MS, fixed=False, config=(("segment.ms", "900000"),)),
    Topic("lanes", "account and model", "outcomes of creates, shared by the workers; no fold of jobs reads it",
          ("submitter", "poller"), HOUR_MS, fixed=False, config=(("segment.ms", "900000"),), vital=False),
    # All actions of 90 days stay, as in the logs; of older ones the last of each scope.
    Topic("pauses", "pause id", "pauses of creates by operators and budgets, with who and why",
          ("receiver", "projection"), FOR_EVER_MS,
          cleanup="compact", fixed=False, config=(("min.compaction.lag.ms", str(90 * DAY_MS)),)),
    Topic("erasures", "erasure id", "what operators had erased, with who and why", ("operator", "projection"),
          FOR_EVER_MS, cleanup="compact", fixed=False, vital=False),
)  # fmt: skip
CHANGELOG_CONFIG: tuple[tuple[str, str], ...] = (
    ("delete.retention.ms", str(TOMBSTONE_RETENTION_MS)),
    ("min.compaction.lag.ms", str(COMPACTION_LAG_MS)),
    ("max.message.bytes", str(ROW_BYTES_MAX)),
)
_TABLES: tuple[tuple[ChangelogName, TopicName], ...] = (
    ("worker-jobs-changelog", "jobs"), ("worker-responses-changelog", "responses"),
)  # fmt: skip
CHANGELOGS: tuple[Topic, ...] = tuple(
    Topic(name, f"as in {log}", f"rows of the table of {log}: what a worker's store is made from", ("worker",),
          FOR_EVER_MS, cleanup="compact", vital=False,  # a worker that may create topics makes it itself
          config=CHANGELOG_CONFIG)
    for name, log in _TABLES
)  # fmt: skip
"""The logs of the workers' tables. No other process reads them."""
BY_NAME: dict[str, Topic] = {topic.name: topic for topic in TOPICS}
