"""The setting of limits, which the worker keeps and which each ingress reads to know which jobs must wait."""

from pathlib import Path

from pydantic import Field, field_validator

from backstop.runtime.settings import RuntimeSettings
from streams.policy.limits import LimitRules, read_rules

FILE_BYTES_MAX = 1 << 20


class LimitSettings(RuntimeSettings):
    """Limits of requests and tokens, by account, model and tenant."""

    limits: str = Field(
        default="",
        description="Limits as a JSON list of rules, or the path of a file with that list (docs/limits.md). Jobs to "
        "which a limit applies wait for their turn. Empty: no limits.",
    )

    @field_validator("limits")
    @classmethod
    def _read(cls, value: str) -> str:
        text = value.strip()
        if text and not text.startswith("["):
            try:
                with Path(text).open("rb") as file:
                    text = file.read(FILE_BYTES_MAX).decode()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"limits: the file {value!r} can't be read: {error}") from None
        read_rules(text)
        return text

    def limit_rules(self) -> LimitRules:
        return read_rules(self.limits)
