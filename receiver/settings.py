"""Settings of the HTTP doors. Environment: `BACKSTOP_<NAME>`, and `BACKSTOP_SUBMISSION_<NAME>` for the policy of the door."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from backstop.outgoing.shared_settings import WebhookSettings
from backstop.runtime.addresses import parse_networks
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.record_sizes import RECORD_BYTES_MAX
from backstop.runtime.settings import CommaList
from receiver.ingress.signature import WebhookKey, parse_key
from receiver.limits import DEAR_COST, Limits
from streams.submission import SubmissionPolicy

HOUR_MS = 3_600_000
WEBHOOK_RETRIES_MS = 72 * HOUR_MS
"""For so long OpenAI repeats a webhook that was not answered with 2xx (guide: webhooks)."""

BLOB_KEEP_DAYS_MIN = 10

TICKET_SECRET_CHARS_MIN = 32

ENVELOPE_BYTES_MAX = 65_536
"""What a fact adds to the body that it carries, generously."""


class ReceiverSettings(WebhookSettings):
    """Where to listen, who may sign webhooks, and what a job gets that does not say otherwise."""

    model_config = SettingsConfigDict(
        env_nested_delimiter="_", env_nested_max_split=1, hide_input_in_errors=True
    )  # fmt: skip

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8080, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    port_file: Path | None = Field(default=None, description="File that gets the bound port, once we listen.")
    admin_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="Port of its own for /metrics and health, as only operators reach it; 0 for none.",
    )
    admin_host: str = Field(default="127.0.0.1", description="Address of the admin port.")
    metrics_public: bool = Field(default=False, description="Also serve /metrics on the public port, to everybody.")
    trusted_proxies: CommaList = Field(
        default=(),
        description="Networks (CIDR, comma-separated) of proxies whose X-Forwarded-For is believed, for addresses in logs and of keys.",
    )
    access_log: bool = Field(
        default=False, description="Log a structured line for each request: who, what, how it ended."
    )
    ticket_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="Secrets that sign the tickets of live streams, comma-separated, 32 characters or more each; the first signs. Several "
        "receivers need the same; without one each process draws its own, and takes its own tickets only.",
    )
    webhook_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        validation_alias=AliasChoices("BACKSTOP_WEBHOOK_SECRETS", "OPENAI_WEBHOOK_SECRET", "webhook_secrets"),
        description="Webhook secrets (whsec_...), comma-separated; two or more while one is rotated out.",
    )
    webhook_tolerance_s: int = Field(
        default=300, ge=1, le=86_400, description="How far a webhook's timestamp may be from our clock, to either side."
    )
    claim_grace_ms: int = Field(
        default=10_000,
        ge=0,
        le=HOUR_MS,
        description="How long after a webhook a response may stay unclaimed before it is looked at by itself.",
    )
    unclaimed_forget_after_ms: int = Field(
        default=75 * HOUR_MS,
        ge=1_000,
        description="How long an unclaimed or foreign response is remembered, so that a repeated webhook is known.",
    )
    submit_bytes_max: int | None = Field(
        default=None,
        ge=1 << 10,
        le=64 << 20,
        description="Largest body of a submission over HTTP, up to 64 MiB; 1 MiB if unset.",
    )
    bodies_memory_bytes_max: int | None = Field(
        default=None,
        ge=1 << 20,
        le=1 << 36,
        description="Memory of this process for submissions at one time, in bytes; a tenant alone gets half of it, and what finds none hears 503 with "
        "Retry-After. A body of plain ASCII counts three times, any other six times. If unset: 256 MiB, or 12 times BACKSTOP_SUBMIT_BYTES_MAX, whichever is more.",
    )
    keys_file: Path | None = Field(
        default=None,
        description="API keys and limits of tenants, as `backstop keys` writes them; data_dir/keys.json if unset.",
    )
    development: bool = Field(
        default=False,
        description="For one's own machine only: whoever reaches this process is the default tenant and may do everything, until there is "
        "a keys file. Refused beyond a loopback address, and beside BACKSTOP_KEYS_FILE.",
    )
    outgoing_endpoints_max: int = Field(
        default=10, ge=1, le=1_000, description="Webhook endpoints that a tenant may have."
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Models that GET /v1/models lists, comma-separated. Nothing depends on it: a create may name any model.",
    )
    submission: SubmissionPolicy = Field(
        default=SubmissionPolicy(), description="What a job gets that does not say otherwise."
    )

    def limits_set(self) -> dict[str, int]:
        """The limits of the doors that a setting replaces."""
        given: dict[str, int] = {}
        if self.submit_bytes_max is not None:
            given["submit_bytes_max"] = self.submit_bytes_max
            # Half of it, a tenant's share, has room for the dearest body.
            given["bodies_memory_bytes_max"] = max(
                Limits().bodies_memory_bytes_max, 2 * DEAR_COST * self.submit_bytes_max
            )
        if self.bodies_memory_bytes_max is not None:
            given["bodies_memory_bytes_max"] = self.bodies_memory_bytes_max
        return given

    @property
    def keys_path(self) -> Path:
        return self.keys_file or self.data_dir / "keys.json"

    @field_validator("webhook_secrets", "ticket_secrets", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(SecretStr(part.strip()) for part in value.split(",") if part.strip())
        return value

    @field_validator("models", mode="before")
    @classmethod
    def _split_models(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_networks(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_proxies(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        parse_networks(networks)
        return networks

    @field_validator("ticket_secrets")
    @classmethod
    def _are_long(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(secret.get_secret_value()) < TICKET_SECRET_CHARS_MIN for secret in secrets):
            raise ValueError(f"each has {TICKET_SECRET_CHARS_MIN} characters or more (openssl rand -base64 32)")
        return secrets

    def ticket_keys(self) -> tuple[bytes, ...]:
        return tuple(secret.get_secret_value().encode() for secret in self.ticket_secrets)

    def webhook_keys(self) -> tuple[WebhookKey, ...]:
        """The keys of the secrets.

        :raises ConfigurationError: there is none, or one is not a webhook secret.
        """
        if not self.webhook_secrets:
            raise ConfigurationError("set BACKSTOP_WEBHOOK_SECRETS: without a secret anybody could sign a webhook")
        keys: list[WebhookKey] = []
        for number, secret in enumerate(self.webhook_secrets, start=1):
            try:
                keys.append(parse_key(secret.get_secret_value()))
            except ValueError as error:
                raise ConfigurationError(f"BACKSTOP_WEBHOOK_SECRETS, secret {number}: {error}") from None
        return tuple(keys)


def check_relations(settings: ReceiverSettings) -> None:
    """What must hold between settings.

    :raises ConfigurationError: something does not; the sentence names the settings.
    """
    policy = settings.submission
    must = {
        "BACKSTOP_UNCLAIMED_FORGET_AFTER_MS must exceed the 72 h for which webhooks are repeated, "
        "and the tolerance": settings.unclaimed_forget_after_ms
        >= WEBHOOK_RETRIES_MS + settings.webhook_tolerance_s * 1000,
        "BACKSTOP_CLAIM_GRACE_MS must be below BACKSTOP_UNCLAIMED_FORGET_AFTER_MS": settings.claim_grace_ms
        < settings.unclaimed_forget_after_ms,
        "BACKSTOP_SUBMISSION_BACKOFF_BASE_MS must not exceed BACKSTOP_SUBMISSION_BACKOFF_MAX_MS": policy.backoff_base_ms
        <= policy.backoff_max_ms,
        "BACKSTOP_INLINE_BYTES_MAX and its envelope must fit a record": settings.inline_bytes_max + ENVELOPE_BYTES_MAX
        <= RECORD_BYTES_MAX,
        "BACKSTOP_BLOB_KEEP_DAYS must be 0 or at least 10: a job may run for 7 days and its result must be read": (
            settings.blob_keep_days == 0 or settings.blob_keep_days >= BLOB_KEEP_DAYS_MIN
        ),
        "BACKSTOP_DEVELOPMENT serves without keys, and BACKSTOP_KEYS_FILE names keys: unset one of them": not settings.development
        or settings.keys_file is None,
        "BACKSTOP_ADMIN_PORT must not be BACKSTOP_PORT": settings.admin_port == 0
        or settings.admin_port != settings.port,
        "BACKSTOP_CLOCK_OFFSET_MS is for tests: it needs BACKSTOP_FAILPOINTS": settings.clock_offset_ms == 0
        or bool(settings.failpoints),
    }  # fmt: skip
    for sentence, holds in must.items():
        if not holds:
            raise ConfigurationError(sentence)
