"""Settings of the code that talks to OpenAI."""

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
    """What an answer with this status, this code and a message that this pattern is found in means; absent fields fit everything."""

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
                raise ValueError(f"pattern is no regular expression: {error}") from None
        return pattern

    def rule(self) -> Rule:
        return Rule(self.cause, self.status, self.code, re.compile(self.pattern) if self.pattern else None)


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
        description="The API key. A worker without one does not start.",
    )
    openai_keyless: bool = Field(
        default=False,
        description="The server asks for no key (a model on a machine of yours): a worker starts without, and sends none.",
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
    requests_memory_bytes_max: int = Field(
        default=256 << 20,
        ge=1 << 20,
        le=1 << 36,
        description="Memory of this worker for large requests that are being sent, in bytes; a tenant alone gets half of it. A request from the blob store counts "
        "three times; one that finds no room is tried again after 2 s.",
    )
    openai_client_certificate: Path | None = Field(
        default=None,
        description="Certificate (PEM) that is shown to a gateway that asks for one; may hold its key, too.",
    )
    openai_client_key: Path | None = Field(
        default=None, description="Key (PEM, not encrypted) of that certificate, where it is a file of its own."
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
    answer_rules: tuple[AnswerRule, ...] = Field(
        default=(),
        description="Own lines of the table of refusals and failures, as JSON, the first that fits wins: "
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
        """What must be said before a worker may run. Whoever only reads settings needs no key.

        :raises ConfigurationError: there is no key, or a certificate that nothing can be made of; says what to set.
        """
        key = bool(self.openai_api_key.get_secret_value().strip())
        if not key and not self.openai_keyless:
            raise ConfigurationError(
                "there is no API key: set OPENAI_API_KEY, or BACKSTOP_OPENAI_KEYLESS=true for a server that asks for none"
            )
        if key and self.openai_keyless:
            raise ConfigurationError(
                "there is an API key, and BACKSTOP_OPENAI_KEYLESS says that there is none: unset one"
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
