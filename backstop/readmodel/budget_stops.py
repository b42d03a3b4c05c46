"""Budgets that stop: holds back the creates of a tenant whose budget is used up, and lets them go again.

A stop is a pause of the tenant's creates on the topic `pauses`, written by the projection, which counts what is spent.
So it holds jobs of every ingress, and retries as well; it is the same for all workers, outlives every process, and has
its reason on each job that waits.

Rules:
- A budget is used up when what is spent and what is reserved reach it. Reserved is what the running jobs are expected
  to cost: the mean of the tenant's attempts of the same model.
- Creates go on below `RESUME_SHARE` of it, in a new period, or with a larger budget; along the ramp of a pause that
  ends, so that what is reserved keeps up.
- While the read model or the log is away, nothing changes: what is held stays held.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer

from backstop.readmodel.budgets import BudgetSpent, Spending
from backstop.readmodel.database import Database, DatabaseAwayError
from backstop.readmodel.ledger import ask_spent
from backstop.readmodel.metrics import ProjectionMetrics
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.kafka.topic_follower import FollowedTopics, TopicFollower, facts_for
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.logs import get_logger
from backstop.runtime.process.pausing import pause
from backstop.runtime.settings import RuntimeSettings
from schemas.pauses import PAUSE_FACT, WHY_CHARS_MAX, CreatesPaused, CreatesResumed, PauseFact, PauseScope
from streams.policy.pauses import PauseBook

CHECK_EVERY_S: Final = 1.0
READ_AGAIN_S: Final = 2.0
RESUME_SHARE: Final = 0.98
"""Below this share of a budget its creates go on: estimates of what runs change all the time."""

log = get_logger("readmodel.budget_stops")


def stop_of(spent: BudgetSpent) -> PauseScope:
    """What the budget holds once it is used up."""
    return PauseScope(tenant=spent.budget.tenant, budget=spent.budget.per)


def changes(active: Iterable[CreatesPaused], stands: Sequence[BudgetSpent], now_ms: int) -> list[PauseFact]:
    """The facts that bring the stops in force in line with the budgets. Pure.

    :param active: the pauses in force, those of operators among them.
    """
    held = {each.scope.pause_id: each for each in active if each.scope.budget is not None}
    by_id = {stop_of(spent).pause_id: spent for spent in stands}
    facts: list[PauseFact] = []
    for pause_id, spent in by_id.items():
        if pause_id not in held and spent.is_used_up:
            facts.append(
                CreatesPaused(
                    id=f"{pause_id}/{now_ms}/paused", at_ms=now_ms, scope=stop_of(spent),
                    by=f"the budget per {spent.budget.per}", why=spent.sentence[:WHY_CHARS_MAX],
                )
            )  # fmt: skip
    for pause_id, paused in held.items():
        now = by_id.get(pause_id)
        if now is None or now.used_share < RESUME_SHARE:
            why = "the tenant has no budget that stops any more" if now is None else now.sentence[:WHY_CHARS_MAX]
            facts.append(
                CreatesResumed(
                    id=f"{pause_id}/{now_ms}/resumed", at_ms=now_ms, scope=paused.scope, by=paused.by, why=why,
                    paused_at_ms=paused.at_ms,
                )
            )  # fmt: skip
    return facts


class BudgetStops:
    """See the module. Without a budget that stops it reads the topic once, to end what earlier settings held."""

    def __init__(
        self, settings: RuntimeSettings, database: Database, publisher: Publisher, spending: Spending, now_ms: NowMs,
        metrics: ProjectionMetrics, consumer: Callable[..., Any] = AIOKafkaConsumer, every_s: float = CHECK_EVERY_S,
    ) -> None:  # fmt: skip
        """:param consumer: makes an `AIOKafkaConsumer`, or an object that behaves the same."""
        self._database = database
        self._publisher = publisher
        self._spending = spending
        self._budgets = [budget for budget in spending.budgets if budget.stop]
        self._now_ms = now_ms
        self._metrics = metrics
        self._every_s = every_s
        self._book = PauseBook()
        self._read = asyncio.Event()
        following = FollowedTopics("budget-stops", ["pauses"], READ_AGAIN_S)
        self._topic = TopicFollower(
            settings, following, facts_for(self._book.take, PAUSE_FACT), caught_up=self._read.set, consumer=consumer
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Check until `stop` is set."""
        following = asyncio.create_task(self._topic.run(), name="budget-stops-topic")
        try:
            while not stop.is_set():
                if self._read.is_set() and await self._once() and not self._budgets:
                    return
                await pause(stop, self._every_s)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _once(self) -> bool:
        """Whether the stops in force are those that the budgets ask for."""
        now_ms = self._now_ms()
        try:
            stands = await self._database.read(
                lambda conn: ask_spent(conn, self._budgets, self._spending.prices, now_ms)
            )
            facts = changes(self._book.active.values(), stands, now_ms)
            for fact in facts:
                log.info(fact.type, tenant=fact.scope.tenant, budget=fact.scope.budget, why=fact.why)
            if facts:
                await self._publisher.publish(facts)
        except (DatabaseAwayError, BrokerUnavailableError) as error:
            log.warning("budgets_not_checked", reason=str(error))
            return False
        for fact in facts:
            self._book.take(fact, now_ms)  # It is read back as well, which changes nothing.
        for spent in stands:
            stopped = stop_of(spent).pause_id in self._book.active
            self._metrics.stopped.labels(spent.budget.tenant, spent.budget.per).set(stopped)
        return True
