"""The projection's metrics. They register with a given registry, never at import."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from backstop.runtime.process.bounded_labels import BoundedLabel

LABELS_MAX = 50
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ProjectionMetrics:
    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        where = REGISTRY if registry is None else registry
        self.records = Counter(
            "backstop_readmodel_records", "Records taken into the read model.", ["topic"], registry=where
        )
        self.rows = Counter("backstop_readmodel_rows", "Rows of jobs written.", registry=where)
        self.ignored = Counter(
            "backstop_readmodel_ignored", "Facts that changed no row, by reason.", ["reason"], registry=where
        )
        self.finished = Counter(
            "backstop_readmodel_finished", "Jobs seen to end.", ["outcome", "found_by"], registry=where
        )
        self.ended = Counter(
            "backstop_jobs_ended",
            "Jobs that ended, by model, outcome and code of the reason; at most 50 models and 50 codes, then `other`.",
            ["model", "outcome", "code"],
            registry=where,
        )
        self.models, self.codes = BoundedLabel(LABELS_MAX), BoundedLabel(LABELS_MAX)
        self.dead = Counter(
            "backstop_readmodel_dead_letters", "Records dead-lettered.", ["topic", "reason"], registry=where
        )
        self.gone = Counter(
            "backstop_readmodel_records_gone", "Records that retention deleted before they were read.", ["topic"],
            registry=where,
        )  # fmt: skip
        self.repeated_results = Counter(
            "backstop_readmodel_repeated_results", "Second records of a job on results; I2 says 0.", registry=where
        )
        self.cost = Counter(
            "backstop_cost_usd",
            "Dollars of attempts as the read model counted them. A correction downwards is not taken back.",
            ["model"],
            registry=where,
        )
        self.tokens = Counter("backstop_cost_tokens", "Tokens of attempts, by kind.", ["kind"], registry=where)
        self.unpriced = Counter(
            "backstop_cost_unpriced_attempts", "Attempts whose usage has no price.", ["model"], registry=where
        )
        self.budget = Gauge(
            "backstop_budget_used_ratio", "Spent of a budget in its current period; 1 is all of it.", ["tenant", "per"],
            registry=where,
        )  # fmt: skip
        self.stopped = Gauge(
            "backstop_budget_stopped", "Whether a budget that stops holds its tenant's creates (1) or not (0).",
            ["tenant", "per"], registry=where,
        )  # fmt: skip
        self.removed = Counter(
            "backstop_readmodel_jobs_removed",
            "Finished jobs removed after their retention time.",
            registry=where,
        )
        self.fenced = Counter(
            "backstop_readmodel_fenced", "Batches refused: another projection owns the partition.", registry=where
        )
        self.away = Counter(
            "backstop_readmodel_away", "Turns lost because database or broker was away.", ["what"], registry=where
        )
        self.lag = Gauge(
            "backstop_readmodel_lag_seconds", "Age of the last record taken; 0 at the end.", registry=where
        )
        self.transaction = Histogram(
            "backstop_readmodel_transaction_seconds", "One batch, begin to commit.", buckets=SECONDS, registry=where
        )
        self.delay = Histogram(
            "backstop_readmodel_delay_seconds",
            "From a record's time in its log to its commit in the database.",
            ["topic"],
            buckets=SECONDS,
            registry=where,
        )
        self.without_next_action = Gauge(
            "backstop_jobs_without_next_action", "Open jobs whose next action is not ahead.", registry=where
        )
        self.overdue = Gauge(
            "backstop_jobs_overdue", "Open jobs past their deadline by more than the bound.", registry=where
        )
        self.finishing_too_long = Gauge(
            "backstop_jobs_finishing_too_long", "Ended jobs without a result for longer than the bound.", registry=where
        )
        self.results_held = Gauge(
            "backstop_results_held_too_long", "Results whose job's end has not been read.", registry=where
        )
        self.open = Gauge("backstop_jobs_open", "Open jobs by state.", ["state"], registry=where)
        self.oldest_age = Gauge(
            "backstop_job_oldest_age_seconds", "Age of the oldest open job.", ["state"], registry=where
        )
        self.swept_at = Gauge("backstop_sweep_at_seconds", "Time of the last sweep, Unix seconds.", registry=where)
