"""Metrics of the worker process, each declared once. Labels have few values and are never ids."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 60, 300)

FACTS = Counter("backstop_facts", "Facts taken by a fold.", ["log"])
REPEATS = Counter("backstop_repeats", "Redelivered records that were skipped.", ["log"])
IGNORED = Counter("backstop_facts_ignored", "Facts that changed nothing, by reason.", ["log", "reason"])
DEAD_LETTERS = Counter("backstop_dead_letters", "Records that became dead letters.", ["topic", "reason"])
BLOBS_NOT_STORED = Counter("backstop_intake_blobs_not_stored", "Failed attempts to store a request's body as a blob.")
FOLD_LAG_SECONDS = Gauge(
    "backstop_fold_lag_seconds", "Age of the first record of the last batch when it was folded.", ["log"]
)
TIMERS = Counter("backstop_timers_fired", "TimerFired facts written.", ["log"])
SCHEDULER_LATENESS_SECONDS = Histogram(
    "backstop_scheduler_lateness_seconds", "Time from a due time to its TimerFired.", buckets=_SECONDS
)
RESULTS = Counter("backstop_results_published", "Results appended to the results topic.", ["outcome"])
RESULTS_KNOWN = Counter(
    "backstop_results_already_published", "Repeated results that were skipped: the tail of the topic contains them."
)
RESULTS_APPEND_SECONDS = Histogram(
    "backstop_results_append_seconds", "Time until a batch of results is acknowledged.", buckets=_SECONDS
)
RECOVERY_SECONDS = Histogram(
    "backstop_recovery_seconds", "Time to open a partition's store; all its rows are read once.", buckets=_SECONDS
)
STORES_DAMAGED = Counter("backstop_stores_damaged", "Local stores set aside because they could not be read.", ["log"])
ROWS_REASSERTED = Gauge(
    "backstop_rows_reasserted",
    "Rows that a former owner had overwritten in a changelog and that their owner wrote again.",
    ["log"],
)
HOLES_CLOSED = Counter(
    "backstop_log_holes_closed",
    "Times that a fetch left a gap in a log and the gap was read again; a few in a rebalance are normal.",
)
RECORDS_EXPIRED = Counter(
    "backstop_log_records_expired",
    "Offsets that retention removed before a fold read them: jobs may be lost. Alert on any.",
)
OLDEST_BATCH_SECONDS = Gauge(
    "backstop_oldest_batch_seconds",
    "Age of the oldest unacknowledged batch of a fold, 0 without one. It grows while a fold is stuck.",
)
ROWS_UNREADABLE = Counter(
    "backstop_rows_unreadable",
    "Rows that only a newer release can read, found when a store is opened; they have no timers.",
    ["log"],
)
HEDGES = Counter(
    "backstop_hedges",
    "Second attempts beside slow ones: `permitted` by the scheduler, and those that `won` or `lost`.",
    ["outcome"],
)
HEDGES_STUCK = Gauge(
    "backstop_hedges_stuck_ratio",
    "The share of responses that run for 20 medians and longer, as a multiple of BACKSTOP_HEDGE_SHARE. Above 1 hedges "
    "gain nothing: raise that share.",
    ["model"],
)
ATTEMPTS_UNKNOWN = Counter(
    "backstop_attempts_unknown_outcome",
    "Attempts of finished jobs whose create had an unknown outcome; adopted later, or repeated.",
)
