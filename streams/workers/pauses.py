"""The pauses of operators, as one worker process knows them: follows `pauses` and holds creates back.

Nothing is sent before the topic was read once: a worker that starts during a pause must not break it. Later, while the
topic can't be read, the pauses that are known stay in force.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer

from backstop.runtime.kafka.topic_follower import FollowedTopics, TopicFollower, facts_for
from backstop.runtime.process.clock import NowMs
from backstop.runtime.settings import RuntimeSettings
from schemas.commands import CreateResponse
from schemas.pauses import PAUSE_FACT, CreatesPaused, PauseFact
from streams.policy.lanes import WHOLE, ReleaseProgress, Share
from streams.policy.pauses import PauseBook
from streams.provider import account_name

log = structlog.get_logger()

TOPIC = "pauses"
READ_AGAIN_S = 2.0
SAY_AGAIN_S = 10.0


class Pauses:
    """What operators paused, of the account that this process uses."""

    def __init__(
        self, account: str | None = None, share: Callable[[], Share] = lambda: WHOLE,
        changed: Callable[[int], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """:param share: this worker's share of the waiting jobs.
        :param changed: called with the number of pauses in force.
        """
        self._account = account_name() if account is None else account
        self._share = share
        self._changed = changed
        self._book = PauseBook()
        self._progress: dict[str, ReleaseProgress] = {}

    def take(self, fact: PauseFact, at_ms: int) -> None:
        """Take the next fact of the log."""
        self._book.take(fact, at_ms)
        self._progress.pop(fact.scope.pause_id, None)
        log.info(
            fact.type, pause_id=fact.scope.pause_id, by=fact.by, key_id=fact.asked_by, why=fact.why,
            **fact.scope.model_dump(exclude_none=True),
        )  # fmt: skip
        self._changed(len(self._book.active))

    def holding(self, command: CreateResponse) -> CreatesPaused | None:
        """A pause that holds this create; None if it may be sent."""
        found = self._book.holding(
            model=command.model, tenant=command.tenant, tags=command.tags or (), account=self._account
        )
        return next(iter(found), None)

    def gates(self, model: str, tenant: str, tags: tuple[str, ...]) -> tuple[str, ...]:
        """The pauses that a waiting job must pass, one after the other."""
        return self._book.gates(model=model, tenant=tenant, tags=tags, account=self._account)

    def holds(self, model: str, tenant: str, now_ms: int) -> bool:
        """Whether one more attempt of such a job would have to wait now. To ask takes no place on a ramp.

        A pause that ended holds nothing unless its ramp is full. Pauses of a tag are not asked: they hold the create.
        """
        share = self._share()
        return any(
            self._book.release(pause_id, self._progress.get(pause_id, ReleaseProgress()), now_ms, share)[1]
            for pause_id in self.gates(model, tenant, ())
        )

    def release(self, pause_id: str, now_ms: int) -> int:
        """0 if a job that this pause held may go on, else the milliseconds after which to ask again."""
        progress = self._progress.get(pause_id, ReleaseProgress())
        self._progress[pause_id], wait_ms = self._book.release(pause_id, progress, now_ms, self._share())
        return wait_ms


class PauseBoard:
    """Reads `pauses` from its beginning and follows it. To be `run` concurrently with the submitter."""

    def __init__(
        self, settings: RuntimeSettings, pauses: Pauses, now_ms: NowMs,
        consumer: Callable[..., Any] = AIOKafkaConsumer,
    ) -> None:  # fmt: skip
        """:param consumer: makes an `AIOKafkaConsumer`, or an object that behaves the same."""
        self._pauses = pauses
        self._now_ms = now_ms
        self._read = asyncio.Event()
        self._topic = TopicFollower(
            settings, FollowedTopics("pauses", [TOPIC], READ_AGAIN_S), facts_for(self._take, PAUSE_FACT),
            caught_up=self._read.set, consumer=consumer,
        )  # fmt: skip

    async def first_read(self, stop: asyncio.Event) -> None:
        """Wait until the topic was read to its end, or until `stop` is set."""
        stopped, read = (asyncio.create_task(event.wait()) for event in (stop, self._read))
        try:
            while not (await asyncio.wait((stopped, read), timeout=SAY_AGAIN_S, return_when="FIRST_COMPLETED"))[0]:
                log.warning("creates_wait_for_pauses", topic=TOPIC)
        finally:
            stopped.cancel()
            read.cancel()

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop` is set."""
        follow = asyncio.create_task(self._topic.run())
        await stop.wait()
        follow.cancel()
        await asyncio.gather(follow, return_exceptions=True)

    def _take(self, fact: PauseFact, at_ms: int) -> None:
        # As of lanes: facts from before the start have the broker's time, so that a ramp goes on after a restart.
        now_ms = self._now_ms()
        self._pauses.take(fact, now_ms if self._read.is_set() else min(now_ms, at_ms))
