"""Settings of the account at OpenAI, and of what its answers mean."""

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
from streams.provider import CallLimits

_CALLS = CallLimits()
"""Each limit has its default there, once."""


class AnswerRule(BaseModel):
    """The meaning of an answer with this status, code and pattern in its message. An absent field fits all."""

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


class OpenAISettings(RuntimeSettings):
    """The account, how it is reached, and the operator's own rules."""

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
        description="The server asks for no key (a model on your own machine): a worker starts and sends without.",
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
    openai_client_certificate: Path | None = Field(
        default=None,
        description="Certificate (PEM) that is shown to a gateway that asks for one; may hold its key, too.",
    )
    openai_client_key: Path | None = Field(
        default=None, description="Key (PEM, not encrypted) of that certificate, where it is a file of its own."
    )
    openai_answer_bytes_max: int = Field(
        default=_CALLS.answer_bytes_max,
        ge=64 << 10,
        le=1 << 30,
        description="Largest answer of the provider that is read, in bytes, unpacked. A finished response that is "
        "larger fails its job (`answer_too_large`).",
    )
    openai_answers_memory_bytes_max: int = Field(
        default=_CALLS.answers_memory_bytes_max,
        ge=1 << 20,
        le=1 << 36,
        description="Memory of a worker for answers that are read at one time, in bytes, and a quarter of it beside "
        "for streams. An answer over 64 KiB counts three times its size. Answers without room wait for each other.",
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

    def refuse_to_start(self) -> None:
        """Refuse to start a worker without a key. A process that only reads settings needs none.

        :raises ConfigurationError: there is no key, or a certificate can't be used; the message says what to set.
        """
        key = bool(self.openai_api_key.get_secret_value().strip())
        if not key and not self.openai_keyless:
            raise ConfigurationError(
                "there is no API key: set OPENAI_API_KEY, or BACKSTOP_OPENAI_KEYLESS=true for a server without keys"
            )
        if key and self.openai_keyless:
            raise ConfigurationError(
                "there is an API key, and BACKSTOP_OPENAI_KEYLESS says that there is none: unset one"
            )
        if self.openai_client_key is not None and self.openai_client_certificate is None:
            raise ConfigurationError("BACKSTOP_OPENAI_CLIENT_KEY needs BACKSTOP_OPENAI_CLIENT_CERTIFICATE")
