"""The one table of topics: name, key, partitions, retention, compaction, writers."""

from dataclasses import dataclass, field
from typing import Literal

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
FOR_EVER_MS = -1
"""`retention.ms` as Kafka writes it."""

TopicName = Literal[
    "requests", "jobs", "responses", "submissions", "polls", "results", "dead-letters", "clock", "partials",
    "webhook-endpoints", "deliveries", "lanes",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Topic:
    """`fixed` partitions: the count decides which partition owns a key, so it may never change once records exist."""

    name: TopicName
    key: str
    holds: str
    written_by: tuple[str, ...]
    retention_ms: int
    cleanup: Literal["delete", "compact", "compact,delete"] = "delete"
    fixed: bool = True
    config: tuple[tuple[str, str], ...] = field(default=())
    vital: bool = True
    """Whether no process starts without it."""

    def full_name(self, prefix: str) -> str:
        return f"{prefix}{self.name}"


TOPICS: tuple[Topic, ...] = (
    Topic("requests", "job id", "requests of upstream services: submit, cancel", ("upstream",), 7 * DAY_MS, fixed=False),
    Topic("jobs", "job id", "the facts of a job (audit log)",
          ("intake", "receiver", "response fold", "submitter", "scheduler"), 90 * DAY_MS),
    Topic("responses", "response id", "the facts of a response, raw webhooks among them (audit log)",
          ("receiver", "job fold", "poller", "scheduler"), 90 * DAY_MS),
    Topic("submissions", "job id", "commands: create this attempt", ("job fold",), 24 * HOUR_MS),
    Topic("polls", "response id", "commands: retrieve, cancel", ("response fold",), 24 * HOUR_MS),
    Topic("results", "job id", "the one terminal record of a job", ("job fold",), 30 * DAY_MS, cleanup="compact,delete"),
    Topic("dead-letters", "as found", "a record that could not be taken, raw, with origin and reason", ("all",),
          28 * DAY_MS, fixed=False),
    Topic("clock", "none", "the names of processes that asked what time it is; the broker's stamp is the answer", ("all",),
          HOUR_MS, fixed=False, config=(("message.timestamp.type", "LogAppendTime"),)),
    Topic("webhook-endpoints", "endpoint id and kind of fact", "where tenants want to be told of ended responses",
          ("receiver", "outgoing"), FOR_EVER_MS, cleanup="compact", fixed=False),
    Topic("deliveries", "delivery id", "the facts of each outgoing webhook", ("outgoing", "receiver"), 30 * DAY_MS),
    # A segment is deleted as a whole, and only once it is no longer written to: at the defaults that is a gigabyte a partition.
    Topic("partials", "job id", "output of responses that still run, for who watches; may have holes, decides nothing",
          ("follower",), 2 * HOUR_MS, fixed=False, config=(("segment.ms", "900000"),)),
    Topic("lanes", "account and model", "what creates met, as workers tell one another; nothing is folded from it", ("submitter", "poller"),
          HOUR_MS, fixed=False, config=(("segment.ms", "900000"),), vital=False),
)  # fmt: skip
BY_NAME: dict[str, Topic] = {topic.name: topic for topic in TOPICS}
