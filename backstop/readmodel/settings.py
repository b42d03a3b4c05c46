"""Settings of the projection and of the reads."""

from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from backstop.readmodel.budgets import BUDGETS_MAX, STOPS_MAX, Budget, repeated
from backstop.runtime.clear_text import check_database
from streams.price_settings import PriceSettings

OVERDUE_BOUND_MS = 90_000
SCHEMES = ("sqlite:///", "postgresql://", "postgres://")


class ProjectionSettings(PriceSettings):
    """The database of the read model, its upkeep, and budgets."""

    database_url: SecretStr | None = Field(
        default=None,
        description="URL of the read model: sqlite:///PATH or postgresql://…; sqlite in data_dir if unset.",
    )
    readmodel_batch_records_max: int = Field(
        default=500, ge=1, le=10_000, description="Records per transaction of the read model."
    )
    readmodel_backoff_max_ms: int = Field(
        default=5_000, ge=100, le=60_000, description="Longest wait before the database or the broker is tried again."
    )
    readmodel_sweep_interval_ms: int = Field(
        default=15_000, ge=100, le=3_600_000, description="Interval of the sweep that finds stuck jobs."
    )
    readmodel_overdue_bound_ms: int = Field(
        default=OVERDUE_BOUND_MS,
        ge=0,
        le=3_600_000,
        description="Delay past its due time after which a job counts as stuck.",
    )
    readmodel_changes_max: int = Field(
        default=1_000_000, ge=1_000, le=100_000_000, description="Changes kept for followers that resume."
    )
    readmodel_changes_keep_ms: int = Field(
        default=86_400_000, ge=60_000, description="Time that changes are kept for followers that resume."
    )
    readmodel_unclaimed_keep_ms: int = Field(
        default=7 * 86_400_000, ge=60_000, description="Time that facts of a response wait for the job that claims it."
    )
    readmodel_keep_days: int = Field(
        default=0,
        ge=0,
        le=36_500,
        description="Days after its end when a finished job leaves the read model, with result and timeline; never "
        "before its fold has forgotten it (BACKSTOP_SUBMISSION_FORGET_AFTER_MS). 0 keeps it for ever.",
    )
    readmodel_dead_letters_max: int = Field(
        default=10_000, ge=10, le=1_000_000, description="Dead letters in the read model; the topic keeps older ones."
    )

    budgets: tuple[Budget, ...] = Field(
        default=(),
        max_length=BUDGETS_MAX,
        description="Budgets of tenants per day or month (UTC), as JSON: "
        '[{"tenant": "acme", "per": "month", "usd": 500, "warn_percent": 80}]. A soft alarm in /v1/attention and '
        'metrics; with "stop": true the tenant\'s creates are held once it is used up.',
    )

    readmodel_health_port: int = Field(
        default=0, ge=0, le=65_535, description="Port for health and metrics of the projection; 0 disables it."
    )

    @field_validator("database_url")
    @classmethod
    def _known_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(SCHEMES):
            raise ValueError(f"the read model's URL must begin with one of {', '.join(SCHEMES)}")
        return url

    @field_validator("budgets")
    @classmethod
    def _one_each(cls, budgets: tuple[Budget, ...]) -> tuple[Budget, ...]:
        twice = repeated(budgets)
        if twice is not None:
            raise ValueError(f"there are two budgets of {twice}: keep one")
        stops = sum(budget.stop for budget in budgets)
        if stops > STOPS_MAX:
            raise ValueError(f"{stops} budgets stop, and at most {STOPS_MAX} may: leave stop out of some")
        return budgets

    @model_validator(mode="after")
    def _database_in_clear_text(self) -> Self:
        if self.database_url is not None and not self.clear_text:
            check_database(self.database_url.get_secret_value())
        return self

    @property
    def readmodel_url(self) -> str:
        """The URL, with its password if it has one: not for logs."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'readmodel.db'}"
