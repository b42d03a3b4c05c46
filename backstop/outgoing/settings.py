"""Settings of `backstop outgoing`. Environment: `BACKSTOP_<NAME>`."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from backstop.outgoing.policy import RetryPolicy
from backstop.outgoing.shared_settings import WebhookSettings
from backstop.runtime.comma_lists import CommaList

RETRY_WAITS_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""As Standard Webhooks recommends: ten attempts in a little over three days, with the first one made at once."""

DAYS_KEPT_S = 21 * 86_400
"""Shorter than the retention of `deliveries`: a waiting delivery must still be in the topic."""


class OutgoingSettings(WebhookSettings):
    outgoing_retry_waits_s: CommaList[float] = Field(
        default=RETRY_WAITS_S,
        description="Seconds between the attempts of a delivery, comma-separated; the first attempt is made at once.",
    )
    outgoing_timeout_ms: int = Field(
        default=15_000, ge=100, le=60_000, description="Time limit of one attempt, from DNS to the end of the answer."
    )
    outgoing_retry_after_ms_max: int = Field(
        default=3_600_000, ge=0, le=86_400_000, description="The longest wait that a Retry-After may ask for."
    )
    outgoing_attempts_max: int = Field(default=64, ge=1, le=1_024, description="Concurrent attempts in total.")
    outgoing_endpoint_attempts_max: int = Field(
        default=8,
        ge=1,
        le=1_024,
        description="Concurrent attempts to one endpoint; one only after a failed attempt, until one succeeds.",
    )
    outgoing_endpoint_waiting_max: int = Field(
        default=20_000,
        ge=1,
        le=1_000_000,
        description="Deliveries to one endpoint that a process keeps waiting; beyond that the oldest are abandoned.",
    )
    outgoing_resend_max: int = Field(
        default=10_000, ge=1, le=1_000_000, description="Most deliveries of one resend since a time."
    )
    outgoing_session_timeout_ms: int = Field(
        default=10_000, ge=6_000, le=300_000, description="A process silent for so long loses its partitions."
    )
    outgoing_health_port: int = Field(
        default=0, ge=0, le=65_535, description="Port for health and metrics; 0 disables it."
    )

    @field_validator("outgoing_retry_waits_s")
    @classmethod
    def _are_waits(cls, waits: tuple[float, ...]) -> tuple[float, ...]:
        if len(waits) > 50 or not all(0 <= wait <= 7 * 86_400 for wait in waits):
            raise ValueError("50 waits at most, each from 0 s to 7 days")
        if sum(waits) > DAYS_KEPT_S:
            raise ValueError("all waits together may be 21 days at most")
        return waits

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if self.outgoing_endpoint_attempts_max > self.outgoing_attempts_max:
            raise ValueError("outgoing_endpoint_attempts_max must not be above outgoing_attempts_max")
        return self

    def retry_policy(self) -> RetryPolicy:
        waits_ms = tuple(int(wait * 1000) for wait in self.outgoing_retry_waits_s)
        return RetryPolicy(waits_ms, retry_after_ms_max=self.outgoing_retry_after_ms_max)
