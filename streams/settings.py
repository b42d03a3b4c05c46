"""Settings of the worker process: those of submitter and poller, and those of folds, Faust app and scheduler."""

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from streams.limit_settings import LimitSettings
from streams.openai.settings import OpenAISettings
from streams.price_settings import PriceSettings
from streams.submission import SubmissionPolicy
from streams.workers.settings import WorkerSettings


class StreamSettings(WorkerSettings, OpenAISettings, LimitSettings, PriceSettings):
    """The whole worker. Environment: `BACKSTOP_<NAME>`; for the policy of submissions `BACKSTOP_SUBMISSION_<NAME>`."""

    model_config = SettingsConfigDict(env_nested_delimiter="_", env_nested_max_split=1, hide_input_in_errors=True)

    submission: SubmissionPolicy = Field(
        default=SubmissionPolicy(), description="Policy of jobs submitted over Kafka: defaults and limits."
    )
    worker_instance_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._\-]{1,100}$",
        description="Name for Kafka's static membership: a restart with the same name within the session timeout "
        "causes no rebalance.",
    )
    worker_session_timeout_s: float = Field(
        default=15.0, ge=6.0, le=300.0, description="A worker without heartbeats for this long loses its partitions."
    )
    worker_heartbeat_s: float = Field(
        default=3.0, ge=0.1, le=60.0, description="Interval between a worker's heartbeats to the broker."
    )
    batch_records_max: int = Field(
        default=500, ge=1, le=500, description="Most records that a fold takes in one batch."
    )
    otel_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s?#]{1,200}$",
        description="Address of an OpenTelemetry collector (OTLP over HTTP, http://collector:4318) that gets the spans "
        "of jobs (docs/tracing.md; needs the extra `backstop-jobs[otel]`). Unset: no spans.",
    )
    health_port: int = Field(default=0, ge=0, le=65_535, description="Port of /livez, /readyz, /metrics; 0 for none.")

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if self.worker_heartbeat_s * 3 > self.worker_session_timeout_s:
            raise ValueError("worker_heartbeat_s must be at most a third of worker_session_timeout_s")
        return self
