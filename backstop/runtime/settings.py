"""Settings that every process shares. Each is declared once: name with unit, default, one sentence, validation.

The composition root of a process reads them once from the environment (prefix `BACKSTOP_`); other code gets values.
"""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from backstop.runtime.broker_settings import BrokerSettings
from backstop.runtime.clear_text import check_bucket
from backstop.runtime.comma_lists import CommaList
from backstop.runtime.record_sizes import UNPACKED_BYTES_MAX
from backstop.runtime.secret_files import SecretFiles
from schemas.base import DEFAULT_TENANT

TENANT_CHARS_MAX = 27
"""`tenant:id` must fit a job id of 128 characters, and a caller's own id may have 100 (`streams.submission`)."""

_SEGMENT = r"\.*[A-Za-z0-9_\-][A-Za-z0-9._\-]*"
"""Not empty, and not of dots alone: the store's client refuses such paths."""
BUCKET = re.compile(
    r"^(?P<kind>s3|az|gs)://(?P<bucket>[a-z0-9][a-z0-9._\-]{1,61}[a-z0-9])"
    rf"(?:/(?P<prefix>(?:{_SEGMENT}(?:/{_SEGMENT})*/?)?))?$"
)

METADATA = "metadata"
"""As BACKSTOP_BLOBS_KEY_ID: the account of a machine at Google, by its metadata service."""

TENANT = re.compile(rf"[a-z0-9_\-]{{1,{TENANT_CHARS_MAX}}}")


class RuntimeSettings(BrokerSettings):
    """Broker, topics, data folder, logs."""

    model_config = SettingsConfigDict(env_prefix="BACKSTOP_", extra="ignore", frozen=True, hide_input_in_errors=True)

    kafka_unpacked_bytes_max: int = Field(
        default=UNPACKED_BYTES_MAX,
        ge=1 << 20,
        le=1 << 30,
        description="Bytes that a compressed batch of records may unpack to; a larger batch becomes a dead letter. The "
        "default is 16 times the topics' max.message.bytes; a consumer may need this much memory per partition.",
    )
    topic_prefix: str = Field(
        default="backstop.", pattern=r"^[A-Za-z0-9._\-]{0,100}$", description="Prefix of every topic and group name."
    )
    partitions: int = Field(default=8, ge=1, le=256, description="Partitions of each topic; fixed at creation.")
    replication_factor: int = Field(default=1, ge=1, le=5, description="Replicas of each topic; 3 in production.")
    min_insync_replicas: int = Field(
        default=1,
        ge=1,
        le=5,
        description="Replicas that must have a record before it is acknowledged; 2 in production.",
    )
    request_tenants: CommaList[str] = Field(
        default=(),
        description="Tenants with their own requests topic (requests.TENANT), comma-separated; a writer to that topic "
        "acts as the tenant. The topic `requests` belongs to the default tenant.",
    )
    data_dir: Path = Field(default=Path(".backstop"), description="Folder for stores, the read model and blobs.")
    blob_dir: Path | None = Field(
        default=None, description="Folder of the blob store, shared by all processes; data_dir/blobs if unset."
    )
    blobs: str | None = Field(
        default=None,
        pattern=BUCKET.pattern,
        max_length=300,
        description="Blob store in an S3 bucket (s3://BUCKET/PREFIX), an Azure container (az://CONTAINER/PREFIX; both "
        "need the extra `backstop-jobs[s3]`) or a bucket of Google Cloud Storage (gs://BUCKET/PREFIX; the extra "
        "`backstop-jobs[gcs]`) instead of the folder. Every acceptance of a large body depends on it.",
    )
    blobs_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s]+(/\S*)?$",
        description="Address of an S3 service other than AWS (MinIO, R2, ...); the bucket is named in the path. Of "
        "Azure: the address of the account, if it is not the public one. Of Google: the address of a stand-in.",
    )
    blobs_region: str | None = Field(
        default=None, description="Region of the bucket; AWS_REGION, or us-east-1, if unset."
    )
    blobs_key_id: str | None = Field(
        default=None,
        description="Access key id of the bucket; if unset, AWS's own sources: AWS_ACCESS_KEY_ID, a web identity, "
        "the machine's role. Of Azure: the name of the account; if unset, AZURE_STORAGE_ACCOUNT_NAME and Azure's own "
        "sources. Of Google: `metadata` for the machine's own account, of which its metadata service gives tokens.",
    )
    blobs_secret_key: SecretStr | None = Field(
        default=None,
        description="The secret of BACKSTOP_BLOBS_KEY_ID. Of Google: the key of a service account, as the JSON "
        "document that Google made, without BACKSTOP_BLOBS_KEY_ID.",
    )
    blob_keep_days: int = Field(
        default=0,
        ge=0,
        le=3_650,
        description="Days that a body stays in the blob folder after its last put; at least 10, because a job may run "
        "for 7. 0: for ever. For a bucket, set lifecycle rules instead (docs/operating.md).",
    )
    inline_bytes_max: int = Field(
        default=65_536, ge=0, le=524_288, description="Bytes above which a body goes to the blob store."
    )
    payload_keys: SecretStr | None = Field(
        default=None,
        description="Keys that encrypt bodies at rest, as TENANT:KEY, comma-separated or a line each in the file of "
        "BACKSTOP_PAYLOAD_KEYS_FILE; the first key of a tenant encrypts, a tenant without one uses that of `default`. "
        "Needs BACKSTOP_INLINE_BYTES_MAX=0. `openssl rand -base64 32` makes a key.",
    )
    payload_keys_command: str | None = Field(
        default=None,
        min_length=1,
        max_length=4_096,
        description="Command that prints these keys at the start of a process, a line each, where a KMS holds them. It "
        "is run without a shell, and has the value of BACKSTOP_PAYLOAD_KEYS, then what the KMS wrapped, on its "
        "standard input.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: columns on a terminal, JSON otherwise."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level that is logged."
    )
    failpoints: str = Field(
        default="",
        description="Test only: places at which this process dies or stops (names in "
        "backstop/runtime/process/failpoints.py).",
    )
    health_host: str = Field(
        default="127.0.0.1",
        description="Address of the health port of worker, projection and outgoing; 0.0.0.0 where probes and "
        "Prometheus come from other machines or containers.",
    )
    clock_offset_ms: int = Field(default=0, description="Test only: a wrong clock; refused unless failpoints are on.")

    @field_validator("request_tenants")
    @classmethod
    def _tenants(cls, tenants: tuple[str, ...]) -> tuple[str, ...]:
        for tenant in tenants:
            if not TENANT.fullmatch(tenant):
                raise ValueError(f"each tenant has 1 to {TENANT_CHARS_MAX} of a-z 0-9 _ -")
            if tenant == DEFAULT_TENANT:
                raise ValueError("the default tenant has the topic `requests` itself")
        return tuple(dict.fromkeys(tenants))

    @property
    def encrypts_payloads(self) -> bool:
        return self.payload_keys is not None or self.payload_keys_command is not None

    @model_validator(mode="after")
    def _in_clear_text(self) -> Self:
        if not self.clear_text and self.blobs_endpoint is not None:
            check_bucket(self.blobs_endpoint)
        return self

    @model_validator(mode="after")
    def _bodies_encrypted(self) -> Self:
        if self.encrypts_payloads and self.inline_bytes_max:
            raise ValueError(
                "BACKSTOP_PAYLOAD_KEYS encrypts the blob store, and bodies in records would stay readable: set "
                "BACKSTOP_INLINE_BYTES_MAX=0"
            )
        return self

    @model_validator(mode="after")
    def _one_blob_store(self) -> Self:
        if self.blobs is not None and self.blob_dir is not None:
            raise ValueError("BACKSTOP_BLOBS and BACKSTOP_BLOB_DIR name two blob stores: unset one of them")
        if self.blobs is not None and self.blob_keep_days:
            raise ValueError(
                "BACKSTOP_BLOB_KEEP_DAYS applies to a folder only: unset it, and set lifecycle rules of the bucket "
                "instead (docs/operating.md)"
            )
        return self

    @model_validator(mode="after")
    def _one_credential_of_the_bucket(self) -> Self:
        named = BUCKET.fullmatch(self.blobs) if self.blobs is not None else None
        if named is None or named["kind"] != "gs":
            if (self.blobs_key_id is None) != (self.blobs_secret_key is None):
                raise ValueError("BACKSTOP_BLOBS_KEY_ID and BACKSTOP_BLOBS_SECRET_KEY go together: set both, or none")
            if named is not None and "_" in named["bucket"]:
                raise ValueError("BACKSTOP_BLOBS: only a bucket of Google may have `_` in its name")
            return self
        if self.blobs_key_id not in {None, METADATA}:
            raise ValueError(f"BACKSTOP_BLOBS_KEY_ID of a bucket of Google is `{METADATA}`, or unset")
        if self.blobs_key_id is not None and self.blobs_secret_key is not None:
            raise ValueError(
                f"BACKSTOP_BLOBS_KEY_ID={METADATA} and BACKSTOP_BLOBS_SECRET_KEY name two accounts of Google: unset one"
            )
        if self.blobs_key_id is None and self.blobs_secret_key is None and self.blobs_endpoint is None:
            raise ValueError(
                "BACKSTOP_BLOBS=gs://... needs an account: set BACKSTOP_BLOBS_SECRET_KEY_FILE to the key of a service "
                f"account, or BACKSTOP_BLOBS_KEY_ID={METADATA} for the machine's own"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - neither is used
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, SecretFiles(settings_cls), env_settings

    @property
    def blobs_path(self) -> Path:
        return self.blob_dir or self.data_dir / "blobs"

    @property
    def blob_keep_ms(self) -> int:
        return self.blob_keep_days * 86_400_000

    @property
    def claims_path(self) -> Path:
        """Beside the blobs, so that all processes of a deployment share them."""
        return self.blobs_path / "claims"
