"""Settings of submitter, poller and follower, whatever the provider."""

from typing import Self

from pydantic import Field, model_validator

from backstop.runtime.settings import RuntimeSettings
from streams.policy.polls import PollPolicy
from streams.workers.rate import RECOVERY_SHARE_PER_MIN


class WorkerSettings(RuntimeSettings):
    """Submitter and caller."""

    requests_memory_bytes_max: int = Field(
        default=256 << 20,
        ge=1 << 20,
        le=1 << 36,
        description="Memory of this worker for large requests that are being sent, in bytes; a tenant alone gets half of it. A request from the blob store counts "
        "three times; one that finds no room is tried again after 2 s.",
    )
    create_concurrency: int = Field(default=64, ge=1, le=1_000, description="Creates in flight per process.")
    poll_concurrency: int = Field(default=64, ge=1, le=1_000, description="Looks and cancels in flight per process.")
    poll_timeout_ms: int = Field(
        default=30_000, ge=100, le=600_000, description="Time of one look or cancel, over all its parts."
    )
    poll_rate_max_per_s: float = Field(
        default=250.0, ge=0.1, le=10_000, description="Looks and cancels a second per process, while nobody objects."
    )
    poll_rate_recovery_share_per_min: float = Field(
        default=RECOVERY_SHARE_PER_MIN,
        gt=0,
        le=60,
        description="What comes back of that rate in a minute, as a share of it, from half of what it was before the provider objected.",
    )
    poll_tries_max: int = Field(default=3, ge=1, le=10, description="Calls of one look before it counts as failed.")
    poll_queue_max: int = Field(
        default=20_000,
        ge=1,
        le=100_000,
        description="Looks that wait in a process at most; those that a webhook asked for are found among them, and not behind.",
    )
    first_poll_ms: int = Field(
        default=20_000, ge=0, le=3_600_000, description="From acceptance to the first look that no webhook asked for."
    )
    poll_spacing_factor: float = Field(
        default=0.5, gt=0, le=10, description="Wait for the next look, as a share of the response's age."
    )
    poll_spacing_min_ms: int = Field(default=5_000, ge=100, le=3_600_000, description="Least wait between looks.")
    poll_spacing_max_ms: int = Field(
        default=240_000,
        ge=100,
        le=3_600_000,
        description="Longest wait between looks; under half of the time for which the provider keeps a response.",
    )
    poll_report_ms: int = Field(
        default=120_000,
        ge=1_000,
        le=3_600_000,
        description="A poll or cancel without a report for so long is made again; one that still waits for its turn then is dropped.",
    )
    submission_memory_ms: int = Field(
        default=180_000,
        ge=1_000,
        le=86_400_000,
        description="How far back the submitter reads a partition that it takes over; older commands make it read on.",
    )
    submission_memory_max: int = Field(
        default=20_000, ge=1, le=1_000_000, description="Command ids that the submitter remembers per partition."
    )
    stream_concurrency: int = Field(
        default=100,
        ge=0,
        le=2_000,
        description="Streams of partial output that a process follows at one time; 0 for none.",
    )
    stream_coalesce_ms: int = Field(
        default=20, ge=0, le=1_000, description="How long partial output is gathered before it is passed on."
    )
    stream_silence_ms: int = Field(
        default=600_000,
        ge=100,
        le=3_600_000,
        description="A stream that says nothing for so long is opened again; the provider may refuse that for a response over 5 minutes old.",
    )
    stream_event_bytes_max: int = Field(
        default=262_144, ge=1_024, le=1_000_000, description="A larger event ends the partial output of its response."
    )
    stream_response_bytes_max: int = Field(
        default=4_194_304, ge=1_024, le=1 << 30, description="Partial output of one response that is passed on."
    )
    group_session_timeout_ms: int = Field(
        default=10_000, ge=1_000, le=300_000, description="After this silence a worker's partitions go to another."
    )

    webhooks_expected: bool = Field(
        default=True,
        description="Set to false where no webhook can come: polls come sooner from the start, and not only once none has come for a while.",
    )

    @model_validator(mode="after")
    def _polls_agree(self) -> Self:
        self.poll_policy()
        return self

    def poll_policy(self) -> PollPolicy:
        return PollPolicy(
            first_poll_ms=self.first_poll_ms,
            spacing_factor=self.poll_spacing_factor,
            spacing_min_ms=self.poll_spacing_min_ms,
            spacing_max_ms=self.poll_spacing_max_ms,
            report_ms=self.poll_report_ms,
        )
