"""Metrics of the worker process, each declared once. Labels are few and never an id."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 60, 300)

FACTS = Counter("backstop_facts", "Facts taken by a fold.", ["log"])
REPEATS = Counter("backstop_repeats", "Redelivered records that were skipped.", ["log"])
IGNORED = Counter("backstop_facts_ignored", "Facts that changed nothing, by reason.", ["log", "reason"])
DEAD_LETTERS = Counter("backstop_dead_letters", "Records set aside.", ["topic", "reason"])
BLOBS_NOT_STORED = Counter(
    "backstop_intake_blobs_not_stored", "Times that the blob store did not take a request's body."
)
FOLD_LAG_SECONDS = Gauge(
    "backstop_fold_lag_seconds", "Age of the oldest record of the last batch when it was folded.", ["log"]
)
TIMERS = Counter("backstop_timers_fired", "TimerFired facts written.", ["log"])
SCHEDULER_LATENESS_SECONDS = Histogram(
    "backstop_scheduler_lateness_seconds", "From a due time to its TimerFired.", buckets=_SECONDS
)
RESULTS = Counter("backstop_results_published", "Results committed to the results topic.", ["outcome"])
RESULTS_KNOWN = Counter(
    "backstop_results_already_published", "Results that a repeat would have published again, held back by the tail."
)
RESULTS_COMMIT_SECONDS = Histogram("backstop_results_commit_seconds", "One transaction on results.", buckets=_SECONDS)
RECOVERY_SECONDS = Histogram(
    "backstop_recovery_seconds", "Opening the store of a partition: all its rows are read once.", buckets=_SECONDS
)
STORES_DAMAGED = Counter("backstop_stores_damaged", "Local stores set aside because they could not be read.", ["log"])
ROWS_REASSERTED = Gauge(
    "backstop_rows_reasserted",
    "Rows that a stopped and woken worker had put back, written again by their owner.",
    ["log"],
)
HOLES_CLOSED = Counter(
    "backstop_log_holes_closed",
    "Times that records lost on the way from the broker were read again; a few in a rebalance are normal.",
)
RECORDS_EXPIRED = Counter(
    "backstop_log_records_expired",
    "Records that retention removed before a fold read them: jobs may be lost. Alert on any.",
)
OLDEST_BATCH_SECONDS = Gauge(
    "backstop_oldest_batch_seconds",
    "How long the oldest batch has been with a fold; 0 where none is. Grows where a fold is stuck.",
)
ROWS_UNREADABLE = Counter(
    "backstop_rows_unreadable",
    "Rows found at the opening of a store that only a newer release can read; nothing is due for them.",
    ["log"],
)
ATTEMPTS_UNKNOWN = Counter(
    "backstop_attempts_unknown_outcome",
    "Attempts of finished jobs whose create nobody heard the answer of; adopted later, or repeated.",
)
