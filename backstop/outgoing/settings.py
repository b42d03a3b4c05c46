"""Settings of `backstop outgoing`. Environment: `BACKSTOP_<NAME>`."""

from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from backstop.outgoing.policy import RetryPolicy
from backstop.outgoing.shared_settings import WebhookSettings

RETRY_WAITS_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""As Standard Webhooks recommends: with the first attempt, which is made at once, ten in a little over three days."""

DAYS_KEPT_S = 21 * 86_400
"""Below the retention of `deliveries`: what still waits must still stand there."""


class OutgoingSettings(WebhookSettings):
    outgoing_retry_waits_s: Annotated[tuple[float, ...], NoDecode] = Field(
        default=RETRY_WAITS_S,
        description="Seconds between the attempts of a delivery, comma-separated; the first attempt is made at once.",
    )
    outgoing_timeout_ms: int = Field(
        default=15_000, ge=100, le=60_000, description="Time of one attempt, from the name to the end of the answer."
    )
    outgoing_retry_after_ms_max: int = Field(
        default=3_600_000, ge=0, le=86_400_000, description="The longest wait that a Retry-After may ask for."
    )
    outgoing_attempts_max: int = Field(default=64, ge=1, le=1_024, description="Attempts at one time, in all.")
    outgoing_endpoint_attempts_max: int = Field(
        default=8, ge=1, le=1_024, description="Attempts at one time to one endpoint; one after an attempt that failed."
    )
    outgoing_endpoint_waiting_max: int = Field(
        default=20_000,
        ge=1,
        le=1_000_000,
        description="Deliveries to one endpoint that a process keeps waiting; beyond that the oldest are given up.",
    )
    outgoing_resend_max: int = Field(
        default=10_000, ge=1, le=1_000_000, description="Deliveries of one resend since a time."
    )
    outgoing_session_timeout_ms: int = Field(
        default=10_000, ge=6_000, le=300_000, description="A process unheard of for so long loses its partitions."
    )
    outgoing_health_port: int = Field(
        default=0, ge=0, le=65_535, description="Port for health and metrics; 0 switches it off."
    )

    @field_validator("outgoing_retry_waits_s", mode="before")
    @classmethod
    def _split_waits(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("outgoing_retry_waits_s")
    @classmethod
    def _are_waits(cls, waits: tuple[float, ...]) -> tuple[float, ...]:
        if len(waits) > 50 or not all(0 <= wait <= 7 * 86_400 for wait in waits):
            raise ValueError("50 waits at most, each from 0 s to 7 days")
        if sum(waits) > DAYS_KEPT_S:
            raise ValueError("all waits together may be 21 days")
        return waits

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if self.outgoing_endpoint_attempts_max > self.outgoing_attempts_max:
            raise ValueError("outgoing_endpoint_attempts_max must not be above outgoing_attempts_max")
        return self

    def retry_policy(self) -> RetryPolicy:
        waits_ms = tuple(int(wait * 1000) for wait in self.outgoing_retry_waits_s)
        return RetryPolicy(waits_ms, retry_after_ms_max=self.outgoing_retry_after_ms_max)
