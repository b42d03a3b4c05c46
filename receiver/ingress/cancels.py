"""Publishes the cancel of a job."""

from typing import Final

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.process.clock import NowMs
from receiver.limits import Limits
from receiver.problems import unavailable
from schemas.job_ids import qualified_job_id
from schemas.requests import Cancel
from streams.submission import to_cancel

NOT_ACKNOWLEDGED: Final = (
    "The log did not acknowledge the cancel in time; it may still take effect. Send it again: a repeat is harmless."
)


class Cancels:
    def __init__(self, publisher: Publisher, now_ms: NowMs, limits: Limits) -> None:
        self._publisher = publisher
        self._now_ms = now_ms
        self._limits = limits

    async def publish(self, cancel: Cancel, tenant: str, not_acknowledged: str = NOT_ACKNOWLEDGED) -> None:
        """Return when the log has the cancel.

        :raises Refusal: 503 with the text `not_acknowledged`.
        """
        job_id = qualified_job_id(tenant, cancel.job_id)
        fact = to_cancel(cancel, job_id=job_id, tenant=tenant, ingress="http", at_ms=self._now_ms())
        try:
            await self._publisher.publish([fact], timeout_s=self._limits.publish_s)
        except BrokerUnavailableError:
            raise unavailable("log_unavailable", not_acknowledged, self._limits.retry_after_s) from None
