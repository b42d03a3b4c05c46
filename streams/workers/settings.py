"""Settings of the code that talks to OpenAI."""

from typing import Self

from pydantic import AliasChoices, Field, SecretStr, model_validator

from runtime.clear_text import check_base_url
from runtime.settings import RuntimeSettings
from streams.policy.looks import LookPolicy
from streams.workers.rate import RECOVERY_SHARE_PER_MIN


class WorkerSettings(RuntimeSettings):
    """Submitter and caller."""

    openai_base_url: str = Field(
        default="https://api.openai.com/v1",
        pattern=r"^https?://",
        validation_alias=AliasChoices("BACKSTOP_OPENAI_BASE_URL", "OPENAI_BASE_URL", "openai_base_url"),
        description="Where the API is.",
    )
    openai_api_key: SecretStr = Field(
        default=SecretStr(""),
        validation_alias=AliasChoices("BACKSTOP_OPENAI_API_KEY", "OPENAI_API_KEY", "openai_api_key"),
        description="The API key; without one nothing can be created.",
    )
    openai_organization: str | None = Field(
        default=None,
        validation_alias=AliasChoices("BACKSTOP_OPENAI_ORGANIZATION", "OPENAI_ORG_ID", "openai_organization"),
        description="Organization to bill, where the key belongs to several.",
    )
    openai_project: str | None = Field(
        default=None,
        validation_alias=AliasChoices("BACKSTOP_OPENAI_PROJECT", "OPENAI_PROJECT_ID", "openai_project"),
        description="Project to bill, where the key belongs to several.",
    )
    create_concurrency: int = Field(default=64, ge=1, le=1_000, description="Creates in flight per process.")
    look_concurrency: int = Field(default=64, ge=1, le=1_000, description="Looks and cancels in flight per process.")
    create_timeout_ms: int = Field(
        default=45_000, ge=100, le=600_000, description="Time of one create call, over all its parts."
    )
    look_timeout_ms: int = Field(
        default=30_000, ge=100, le=600_000, description="Time of one look or cancel, over all its parts."
    )
    look_rate_max_per_s: float = Field(
        default=250.0, ge=0.1, le=10_000, description="Looks and cancels a second per process, while nobody objects."
    )
    look_rate_recovery_share_per_min: float = Field(
        default=RECOVERY_SHARE_PER_MIN,
        gt=0,
        le=60,
        description="What comes back of that rate in a minute, as a share of it, after an objection has halved it.",
    )
    look_tries_max: int = Field(default=3, ge=1, le=10, description="Calls of one look before it counts as failed.")
    look_queue_max: int = Field(
        default=20_000,
        ge=1,
        le=100_000,
        description="Looks that wait in a process at most; those that a webhook asked for are found among them, and not behind.",
    )
    first_look_ms: int = Field(
        default=20_000, ge=0, le=3_600_000, description="From acceptance to the first look that no webhook asked for."
    )
    look_spacing_factor: float = Field(
        default=0.5, gt=0, le=10, description="Wait for the next look, as a share of the response's age."
    )
    look_spacing_min_ms: int = Field(default=5_000, ge=100, le=3_600_000, description="Least wait between looks.")
    look_spacing_max_ms: int = Field(
        default=240_000,
        ge=100,
        le=3_600_000,
        description="Longest wait between looks; under half of the time for which the provider keeps a response.",
    )
    look_word_ms: int = Field(
        default=120_000,
        ge=1_000,
        le=3_600_000,
        description="A look without word for so long is made again, and no longer worth making where it still waits.",
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

    @model_validator(mode="after")
    def _provider_in_clear_text(self) -> Self:
        if not self.clear_text:
            check_base_url(self.openai_base_url)
        return self

    @model_validator(mode="after")
    def _looks_agree(self) -> Self:
        self.look_policy()
        return self

    def look_policy(self) -> LookPolicy:
        return LookPolicy(
            first_look_ms=self.first_look_ms,
            spacing_factor=self.look_spacing_factor,
            spacing_min_ms=self.look_spacing_min_ms,
            spacing_max_ms=self.look_spacing_max_ms,
            word_ms=self.look_word_ms,
        )
