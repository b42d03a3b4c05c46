"""Reads the topic `partials`, without a consumer group: each process that serves listeners needs all records.

It reads also while there are no listeners, so that a new or resuming listener finds earlier events. It starts a few
minutes back, so that a restarted process has the events that its predecessor had.
"""

from typing import Any

from backstop.runtime.blob_folders import BlobFolders
from backstop.runtime.kafka.topic_follower import FollowedTopics, TopicFollower
from backstop.runtime.kafka.troubles import Troubles
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.logs import get_logger
from backstop.runtime.settings import RuntimeSettings
from receiver.partial_output.listeners import Live
from schemas.codec import decode
from schemas.partials import PARTIAL, PartialOutput

AGAIN_S = 1.0
CLOCK = "clock"

log = get_logger("receiver.partial_output")


class PartialTail:
    """Hands each record to `live`. Unreadable records are counted and skipped: no job depends on them."""

    def __init__(
        self, settings: RuntimeSettings, live: Live, now_ms: NowMs, back_ms: int, folders: BlobFolders | None = None,
        troubles: Troubles | None = None,
    ) -> None:  # fmt: skip
        """`folders` and `troubles` get the records of `clock`, which this consumer reads too, to save a second one."""
        self._folders = folders
        self._troubles = Troubles(now_ms) if troubles is None else troubles
        self._clock = f"{settings.topic_prefix}{CLOCK}"
        self._live = live
        topics = [PartialOutput.topic, CLOCK]
        following = FollowedTopics("partials", topics, AGAIN_S, since_ms=lambda: now_ms() - back_ms)
        self._topics = TopicFollower(settings, following, self._take, caught_up=self._all_read)

    async def run(self) -> None:
        """Read until cancelled."""
        await self._topics.run()

    def _all_read(self) -> None:
        self._live.caught_up = True

    def _take(self, record: Any) -> None:
        if record.topic == self._clock:
            self._troubles.heard(record.headers, record.timestamp)
            if self._folders is not None:
                self._folders.heard(record.value, record.timestamp)
            return
        try:
            self._live.take(decode(PARTIAL, record.value))
        except Exception as error:  # any error: one bad record must not stop the others
            self._live.metrics.records.labels("unreadable").inc()
            log.debug("partial_unreadable", error_type=type(error).__name__)
        else:
            self._live.metrics.records.labels("taken").inc()
