"""Makes the fact of an adoption: a response that an application created is seen through to a result."""

from dataclasses import dataclass

from backstop.runtime.authority import key_id_now
from schemas.codec import canonical, sha256_hex
from schemas.jobs import ResponseAdopted
from schemas.requests import TIMEOUT_MS_MAX, Adopt
from streams.submission import SubmissionPolicy

ADOPTED_POLL_AGAIN_MS = 20_000
"""The time of the second poll, if the first one, which is made at once, brings no observation."""


@dataclass(frozen=True, slots=True)
class PreparedAdoption:
    """An adoption and its canonical form, which has only the response id: a repeated adoption means the same job."""

    adopt: Adopt

    @property
    def data(self) -> bytes:
        return canonical({"type": "adopt", "response_id": self.adopt.response_id})

    @property
    def sha256(self) -> str:
        return sha256_hex(self.data)

    @property
    def deadline_at_ms(self) -> int | None:
        return self.adopt.deadline_at_ms

    @property
    def given_job_id(self) -> str:
        """The job id, as shown to the tenant. Never change its form: a repeated adoption would become another job."""
        return f"adopted_{sha256_hex(self.adopt.response_id.encode())[:32]}"


def to_adopted(
    prepared: PreparedAdoption, *, job_id: str, tenant: str, at_ms: int, policy: SubmissionPolicy
) -> ResponseAdopted:
    """The fact for an adoption. As with `to_submitted`, the caller must have refused a past deadline."""
    adopt = prepared.adopt
    deadline_at_ms = adopt.deadline_at_ms
    if deadline_at_ms is None:
        deadline_at_ms = at_ms + (adopt.timeout_ms or policy.timeout_ms)
    return ResponseAdopted(
        id=f"{job_id}/adopted",
        at_ms=at_ms,
        job_id=job_id,
        tenant=tenant,
        ingress="http",
        response_id=adopt.response_id,
        request_sha256=prepared.sha256,
        deadline_at_ms=min(deadline_at_ms, at_ms + TIMEOUT_MS_MAX),
        poll_at_ms=at_ms + ADOPTED_POLL_AGAIN_MS,
        policy=policy.stamp(0),
        include=adopt.include or None,
        session_id=adopt.session_id,
        tags=adopt.tags,
        asked_by=key_id_now(),
    )
