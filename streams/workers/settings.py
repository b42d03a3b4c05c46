"""Settings of the workers that call the provider: submitter, poller and follower."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from backstop.runtime.clear_text import check_base_url
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.settings import RuntimeSettings
from streams.openai.causes import CODE_PATTERN_CHARS_MAX, Rule
from streams.policy.polls import PollPolicy
from streams.workers.rate import RECOVERY_SHARE_PER_MIN


class AnswerRule(BaseModel):
    """The cause of answers with this status, this code and a message in which this pattern is found. Absent fields
    match everything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: int | None = Field(default=None, ge=100, le=599)
    code: str | None = None
    pattern: Annotated[str, StringConstraints(min_length=1, max_length=CODE_PATTERN_CHARS_MAX)] | None = None
    cause: Literal["limited", "overloaded", "faulty", "later", "account", "odd", "never"]

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"pattern is not a regular expression: {error}") from None
        return pattern

    def rule(self) -> Rule:
        return Rule(self.cause, self.status, self.code, re.compile(self.pattern) if self.pattern else None)


class WorkerSettings(RuntimeSettings):
    """Settings of submitter, poller and follower."""

    openai_base_url: str = Field(
        default="https://api.openai.com/v1",
        pattern=r"^https?://",
        validation_alias=AliasChoices("BACKSTOP_OPENAI_BASE_URL", "OPENAI_BASE_URL", "openai_base_url"),
        description="Base URL of the provider's API.",
    )
    openai_api_key: SecretStr = Field(
        default=SecretStr(""),
        validation_alias=AliasChoices("BACKSTOP_OPENAI_API_KEY", "OPENAI_API_KEY", "openai_api_key"),
        description="The provider's API key. A worker does not start without one, unless `openai_keyless` is set.",
    )
    openai_keyless: bool = Field(
        default=False,
        description="The server needs no key (for example a self-hosted model): a worker starts without one and sends "
        "none.",
    )
    openai_organization: str | None = Field(
        default=None,
        validation_alias=AliasChoices("BACKSTOP_OPENAI_ORGANIZATION", "OPENAI_ORG_ID", "openai_organization"),
        description="Organization to bill, if the key belongs to several.",
    )
    openai_project: str | None = Field(
        default=None,
        validation_alias=AliasChoices("BACKSTOP_OPENAI_PROJECT", "OPENAI_PROJECT_ID", "openai_project"),
        description="Project to bill, if the key belongs to several.",
    )
    requests_memory_bytes_max: int = Field(
        default=256 << 20,
        ge=1 << 20,
        le=1 << 36,
        description="Memory of a worker for large requests in flight, in bytes. One tenant may use half of it. A "
        "request from the blob store counts three times its size. A request without room is tried again after 2 s.",
    )
    openai_client_certificate: Path | None = Field(
        default=None,
        description="Client certificate (PEM) for a gateway that requires one; the file may also contain the key.",
    )
    openai_client_key: Path | None = Field(
        default=None, description="Key (PEM, not encrypted) of that certificate, if it is in a file of its own."
    )
    create_concurrency: int = Field(default=64, ge=1, le=1_000, description="Most creates in flight per process.")
    poll_concurrency: int = Field(
        default=64, ge=1, le=1_000, description="Most polls and cancels in flight per process."
    )
    poll_timeout_ms: int = Field(
        default=30_000, ge=100, le=600_000, description="Time limit of one poll or cancel as a whole."
    )
    poll_rate_max_per_s: float = Field(
        default=250.0,
        ge=0.1,
        le=10_000,
        description="Most polls and cancels a second per process. The rate falls when the provider limits it.",
    )
    poll_rate_recovery_share_per_min: float = Field(
        default=RECOVERY_SHARE_PER_MIN,
        gt=0,
        le=60,
        description="How fast the poll rate recovers after the provider limited it: share of `poll_rate_max_per_s` a "
        "minute, beginning at half of the rate before.",
    )
    poll_tries_max: int = Field(default=3, ge=1, le=10, description="Calls of one poll before it counts as failed.")
    poll_queue_max: int = Field(
        default=20_000,
        ge=1,
        le=100_000,
        description="Most polls queued in a process. Polls caused by webhooks overtake the others in this queue.",
    )
    first_poll_ms: int = Field(
        default=20_000, ge=0, le=3_600_000, description="From acceptance to the first poll without a webhook."
    )
    poll_spacing_factor: float = Field(
        default=0.5, gt=0, le=10, description="Wait for the next poll, as a share of the response's age."
    )
    poll_spacing_min_ms: int = Field(default=5_000, ge=100, le=3_600_000, description="Shortest wait between polls.")
    poll_spacing_max_ms: int = Field(
        default=240_000,
        ge=100,
        le=3_600_000,
        description="Longest wait between polls. Keep it under half of the time for which the provider keeps a "
        "response.",
    )
    poll_report_ms: int = Field(
        default=120_000,
        ge=1_000,
        le=3_600_000,
        description="Time after which an unanswered scheduled poll is reissued. Older queued ones are skipped.",
    )
    submission_memory_ms: int = Field(
        default=180_000,
        ge=1_000,
        le=86_400_000,
        description="How far back the submitter reads the log of a partition that it takes over, to remember commands "
        "that were performed. Older commands make it read further back.",
    )
    submission_memory_max: int = Field(
        default=20_000, ge=1, le=1_000_000, description="Most command ids that the submitter remembers per partition."
    )
    stream_concurrency: int = Field(
        default=100,
        ge=0,
        le=2_000,
        description="Most streams of partial output that a process follows at a time; 0 for none.",
    )
    stream_coalesce_ms: int = Field(
        default=20, ge=0, le=1_000, description="How long partial output is collected before it is published."
    )
    stream_silence_ms: int = Field(
        default=600_000,
        ge=100,
        le=3_600_000,
        description="A stream that is silent for this long is opened again. The provider may refuse that for a "
        "response over 5 minutes old.",
    )
    stream_event_bytes_max: int = Field(
        default=262_144, ge=1_024, le=1_000_000, description="A larger event ends the partial output of its response."
    )
    stream_response_bytes_max: int = Field(
        default=4_194_304, ge=1_024, le=1 << 30, description="Most partial output published for one response, in bytes."
    )
    group_session_timeout_ms: int = Field(
        default=10_000,
        ge=1_000,
        le=300_000,
        description="A submitter or poller without heartbeats for this long loses its partitions.",
    )

    webhooks_expected: bool = Field(
        default=True,
        description="Set to false if webhooks can't arrive. Then polls come sooner from the start, not only after "
        "several responses ended without a webhook.",
    )
    answer_rules: tuple[AnswerRule, ...] = Field(
        default=(),
        description="Rules for the causes of refusals and failures, as JSON, before the built-in table; the first "
        "match wins: "
        '[{"status": 400, "code": "odd_code", "pattern": "queue", "cause": "later"}].',
    )

    @model_validator(mode="after")
    def _provider_in_clear_text(self) -> Self:
        if not self.clear_text:
            check_base_url(self.openai_base_url)
        return self

    @model_validator(mode="after")
    def _polls_agree(self) -> Self:
        self.poll_policy()
        return self

    def refuse_to_start(self) -> None:
        """Check what a worker needs to run. Programs that only read settings need no key and don't call this.

        :raises ConfigurationError: key or certificate settings are missing or contradict; the message says what to set.
        """
        key = bool(self.openai_api_key.get_secret_value().strip())
        if not key and not self.openai_keyless:
            raise ConfigurationError(
                "there is no API key: set OPENAI_API_KEY, or BACKSTOP_OPENAI_KEYLESS=true for a server that asks for "
                "none"
            )
        if key and self.openai_keyless:
            raise ConfigurationError(
                "there is an API key, and BACKSTOP_OPENAI_KEYLESS says that there is none: unset one of them"
            )
        if self.openai_client_key is not None and self.openai_client_certificate is None:
            raise ConfigurationError("BACKSTOP_OPENAI_CLIENT_KEY needs BACKSTOP_OPENAI_CLIENT_CERTIFICATE")

    def poll_policy(self) -> PollPolicy:
        return PollPolicy(
            first_poll_ms=self.first_poll_ms,
            spacing_factor=self.poll_spacing_factor,
            spacing_min_ms=self.poll_spacing_min_ms,
            spacing_max_ms=self.poll_spacing_max_ms,
            report_ms=self.poll_report_ms,
        )
