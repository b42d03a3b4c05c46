"""Settings of the receiver. Environment: `BACKSTOP_<NAME>`, `BACKSTOP_SUBMISSION_<NAME>` for the policy."""

from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from backstop.outgoing.shared_settings import WebhookSettings
from backstop.runtime.comma_lists import CommaList, Networks
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.record_sizes import RECORD_BYTES_MAX
from receiver.ingress.signature import WebhookKey, parse_key
from receiver.limits import DEAR_COST, Limits
from streams.limit_settings import LimitSettings
from streams.price_settings import PriceSettings
from streams.submission import SubmissionPolicy

HOUR_MS = 3_600_000
WEBHOOK_RETRIES_MS = 72 * HOUR_MS
"""How long OpenAI repeats a webhook that is not answered with 2xx (guide: webhooks)."""

BLOB_KEEP_DAYS_MIN = 10

TICKET_SECRET_CHARS_MIN = 32

ENVELOPE_BYTES_MAX = 65_536
"""Upper bound on what a fact adds to the body that it carries."""


class ReceiverSettings(WebhookSettings, LimitSettings, PriceSettings):
    """Addresses, secrets, and the defaults and limits of submissions."""

    model_config = SettingsConfigDict(
        env_nested_delimiter="_", env_nested_max_split=1, hide_input_in_errors=True
    )  # fmt: skip

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8080, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    port_file: Path | None = Field(
        default=None, description="File to which the bound port is written, once connections are accepted."
    )
    admin_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="Separate port for /metrics and health, for operators only; 0 for none.",
    )
    admin_host: str = Field(default="127.0.0.1", description="Address of the admin port.")
    metrics_public: bool = Field(
        default=False, description="Also serve /metrics on the public port, without authentication."
    )
    trusted_proxies: Networks = Field(
        default=(),
        description="Networks (CIDR, comma-separated) of proxies whose X-Forwarded-For is trusted: for client "
        "addresses in logs, and for keys that are limited to networks.",
    )
    access_log: bool = Field(
        default=False, description="Log a line for each request: tenant, key, address, route, status, duration."
    )
    ticket_secrets: CommaList[SecretStr] = Field(
        default=(),
        description="Secrets that sign the tickets of live streams, comma-separated, at least 32 characters each; the "
        "first signs, all are accepted. Several receivers need the same ones. If unset, each process draws its own "
        "and accepts only its own tickets.",
    )
    webhook_secrets: CommaList[SecretStr] = Field(
        default=(),
        validation_alias=AliasChoices("BACKSTOP_WEBHOOK_SECRETS", "OPENAI_WEBHOOK_SECRET", "webhook_secrets"),
        description="Webhook secrets of OpenAI (whsec_...), comma-separated; two or more during a rotation. "
        "If unset, webhooks are off: each is refused, and ends are found by polling alone.",
    )
    webhook_tolerance_s: int = Field(
        default=300,
        ge=1,
        le=86_400,
        description="How far a webhook's timestamp may differ from the receiver's clock, to either side.",
    )
    claim_grace_ms: int = Field(
        default=10_000,
        ge=0,
        le=HOUR_MS,
        description="How long after its webhook an unclaimed response waits for its claim before it is polled.",
    )
    unclaimed_forget_after_ms: int = Field(
        default=75 * HOUR_MS,
        ge=1_000,
        description="How long an unclaimed or foreign response is remembered, so that a repeated webhook is "
        "recognized.",
    )
    submit_bytes_max: int | None = Field(
        default=None,
        ge=1 << 10,
        le=64 << 20,
        description="Largest body of a submission over HTTP, at most 64 MiB; 1 MiB if unset.",
    )
    bodies_memory_bytes_max: int | None = Field(
        default=None,
        ge=1 << 20,
        le=1 << 36,
        description="Memory of this process for submissions in progress, in bytes. One tenant gets at most half of "
        "it; a submission beyond is answered 503 with Retry-After. A body in plain ASCII counts three times its size, "
        "any other six times, but no more than 40 MiB where three times is less. If unset: 256 MiB or 12 times "
        "BACKSTOP_SUBMIT_BYTES_MAX, whichever is more.",
    )
    keys_file: Path | None = Field(
        default=None,
        description="File of API keys and tenants' limits, written by `backstop keys`; data_dir/keys.json if unset.",
    )
    development: bool = Field(
        default=False,
        description="For a developer's machine only: until a keys file exists, each client is the default tenant with "
        "all scopes. Refused if BACKSTOP_HOST is not a loopback address, or with BACKSTOP_KEYS_FILE.",
    )
    outgoing_endpoints_max: int = Field(
        default=10, ge=1, le=1_000, description="Webhook endpoints that a tenant may have."
    )
    models: CommaList[str] = Field(
        default=(),
        description="Models that GET /v1/models lists, comma-separated. For information only: a create may name any "
        "model.",
    )
    submission: SubmissionPolicy = Field(default=SubmissionPolicy(), description="Defaults and limits of submissions.")

    def limits_set(self) -> dict[str, int]:
        """The fields of `Limits` that a setting replaces."""
        given: dict[str, int] = {}
        if self.submit_bytes_max is not None:
            given["submit_bytes_max"] = self.submit_bytes_max
            # Half of it, a tenant's share, must hold the most expensive body.
            given["bodies_memory_bytes_max"] = max(
                Limits().bodies_memory_bytes_max, 2 * DEAR_COST * self.submit_bytes_max
            )
        if self.bodies_memory_bytes_max is not None:
            given["bodies_memory_bytes_max"] = self.bodies_memory_bytes_max
        return given

    @property
    def keys_path(self) -> Path:
        return self.keys_file or self.data_dir / "keys.json"

    @field_validator("ticket_secrets")
    @classmethod
    def _are_long(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(secret.get_secret_value()) < TICKET_SECRET_CHARS_MIN for secret in secrets):
            raise ValueError(
                f"each secret must have at least {TICKET_SECRET_CHARS_MIN} characters (openssl rand -base64 32)"
            )
        return secrets

    def ticket_keys(self) -> tuple[bytes, ...]:
        return tuple(secret.get_secret_value().encode() for secret in self.ticket_secrets)

    def webhook_keys(self) -> tuple[WebhookKey, ...]:
        """The keys parsed from `webhook_secrets`.

        None: webhooks are off, each is refused, and ends are found by polling.

        :raises ConfigurationError: one is not a webhook secret.
        """
        keys: list[WebhookKey] = []
        for number, secret in enumerate(self.webhook_secrets, start=1):
            try:
                keys.append(parse_key(secret.get_secret_value()))
            except ValueError as error:
                raise ConfigurationError(f"BACKSTOP_WEBHOOK_SECRETS, secret {number}: {error}") from None
        return tuple(keys)


def check_relations(settings: ReceiverSettings) -> None:
    """Check relations between settings.

    :raises ConfigurationError: one does not hold; the message names the settings.
    """
    policy = settings.submission
    must = {
        "BACKSTOP_UNCLAIMED_FORGET_AFTER_MS must be at least the 72 h for which OpenAI repeats webhooks, "
        "plus BACKSTOP_WEBHOOK_TOLERANCE_S": settings.unclaimed_forget_after_ms
        >= WEBHOOK_RETRIES_MS + settings.webhook_tolerance_s * 1000,
        "BACKSTOP_CLAIM_GRACE_MS must be below BACKSTOP_UNCLAIMED_FORGET_AFTER_MS": settings.claim_grace_ms
        < settings.unclaimed_forget_after_ms,
        "BACKSTOP_SUBMISSION_BACKOFF_BASE_MS must not exceed BACKSTOP_SUBMISSION_BACKOFF_MAX_MS": policy.backoff_base_ms
        <= policy.backoff_max_ms,
        "BACKSTOP_INLINE_BYTES_MAX and its envelope must fit a record": settings.inline_bytes_max + ENVELOPE_BYTES_MAX
        <= RECORD_BYTES_MAX,
        "BACKSTOP_BLOB_KEEP_DAYS must be 0 or at least 10: a job may run for 7 days, and clients need time to read its "
        "result": (
            settings.blob_keep_days == 0 or settings.blob_keep_days >= BLOB_KEEP_DAYS_MIN
        ),
        "BACKSTOP_DEVELOPMENT serves without keys, and BACKSTOP_KEYS_FILE names keys: unset one of them": (
            not settings.development or settings.keys_file is None
        ),
        "BACKSTOP_ADMIN_PORT must differ from BACKSTOP_PORT": settings.admin_port == 0
        or settings.admin_port != settings.port,
        "BACKSTOP_CLOCK_OFFSET_MS is for tests: it needs BACKSTOP_FAILPOINTS": settings.clock_offset_ms == 0
        or bool(settings.failpoints),
    }  # fmt: skip
    for sentence, holds in must.items():
        if not holds:
            raise ConfigurationError(sentence)
