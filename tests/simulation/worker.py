"""A worker as `streams.app` composes it: both folds, intake, both schedulers, submitter and poller; all but Faust are
the real ones. `FoldConsumer` stands in its place.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from backstop.runtime.blobs import Bodies
from backstop.runtime.errors import InvariantError
from backstop.runtime.kafka.acknowledged import publish
from backstop.runtime.kafka.reporting import Reporting
from schemas.base import DEFAULT_TENANT, Message
from streams.agents.fold_shell import FoldShell, Taken, both, untaken
from streams.agents.intake import take_request
from streams.early_creates import EarlyCreates
from streams.fold.batch import JOB_FOLD, RESPONSE_FOLD, Fold
from streams.openai.provider import OpenAIProvider
from streams.policy.admission import Admission
from streams.policy.lanes import share_of
from streams.policy.latency import Latencies
from streams.policy.polls import PollPolicy
from streams.scheduler.admissions import Admissions
from streams.scheduler.due import DueIndex, IndexedRows
from streams.scheduler.grants import GrantsAtOnce
from streams.scheduler.hedge_runs import HedgeRuns
from streams.scheduler.hedge_timers import HedgeTimers
from streams.scheduler.hedges import Hedges
from streams.scheduler.job_timers import JobTimers
from streams.scheduler.response_timers import response_timer
from streams.scheduler.service import TICK_MS, MakeTimer, Scheduler
from streams.submission import SubmissionPolicy
from streams.tables.fold_table import PartitionNotOwnedError
from streams.workers.access import ProviderAccess
from streams.workers.command_worker import WorkerParts
from streams.workers.lane_board import LaneBoard
from streams.workers.lanes import Lanes
from streams.workers.limits import PollerLimits, SubmitterLimits
from streams.workers.metrics import WorkerMetrics
from streams.workers.poll_learning import PollLearning
from streams.workers.poller import Poller
from streams.workers.rate import PollRate
from streams.workers.submitter import Submitter
from tests.simulation.blobs import MemoryBlobs
from tests.simulation.broker import Broker, Record
from tests.simulation.chaos import Life
from tests.simulation.clients import TopicReader
from tests.simulation.fold_consumer import DRAIN_S, EXPECTED_ENDS, FoldConsumer
from tests.simulation.learning import schedule_of_polls
from tests.simulation.ports import SETTINGS, Commands, Publisher, Results
from tests.simulation.provider import Client, Provider
from tests.simulation.tables import LocalStores, Table
from tests.simulation.wrong import Wrong

POLLS = PollPolicy(first_poll_ms=3_000, spacing_factor=0.5, spacing_min_ms=1_500, spacing_max_ms=15_000)
INLINE_BYTES_MAX = 400
HEDGE_SHARE = 0.8
"""Large, so that many of the jobs that may have a hedge get one."""
WATCH_EVERY_S = 10.0
IDLE_MS = 3_600_000
AHEAD_MS = 10_000  # Short, so that rows due later than this are read again.

METRICS = WorkerMetrics(CollectorRegistry())


def known_runs(now_ms: int) -> Latencies:
    """Enough ended before the run began: half of them within 3 s."""
    latencies = Latencies()
    for number in range(200):
        latencies.began(f"before_{number}", ("m",), now_ms, now_ms)
        latencies.ended(f"before_{number}", 1_000 + 20 * number, now_ms)
    return latencies


class Worker:
    """One process. `start` it once; it ends by `stop`, or with its life."""

    def __init__(
        self, life: Life, host: str, broker: Broker, provider: Provider, stores: LocalStores, blobs: MemoryBlobs,
        policy: SubmissionPolicy, handled: set[tuple[str, int, int]], wrong: Wrong, polls: PollPolicy = POLLS,
        calls_per_s: float = 250.0, learned: bool = False, hedge_share: float = HEDGE_SHARE, knows_runs: bool = True,
    ) -> None:  # fmt: skip
        """:param knows_runs: it has read of runs before this one, so that it may permit hedges from the beginning."""
        self.life = life
        self.host = host
        self._broker = broker
        self._bodies = Bodies(blobs, INLINE_BYTES_MAX)
        self._policy = policy
        self._wrong = wrong
        self._stores = stores
        self._stop = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()
        self._results = Results(life, broker, wrong)
        rate = PollRate(calls_per_s, life.now_ms)
        webhooks, self._learning = schedule_of_polls(polls, rate, life, METRICS, learned=learned)
        lanes = self._lanes = Lanes(life.now_ms)
        self._board = LaneBoard(
            SETTINGS, lanes, Publisher(life, broker, "lanes"), life.now_ms, partial(TopicReader, life, broker)
        )
        self._early = wrong.early()
        self._heard = dict.fromkeys(("jobs", "responses"), self._landed)
        self._submissions = Commands(life, broker, "submissions", "submitter", host, wrong)
        self._poll_commands = Commands(life, broker, "polls", "poller", host, wrong)
        self._early.performs = lambda partition: partition in self._submissions.partitions
        latencies = known_runs(life.now_ms()) if knows_runs else Latencies()
        self._hedges = Hedges(latencies, hedge_share, troubled=lanes.troubled)
        self._hedge_runs = HedgeRuns(latencies, life.now_ms)
        self.jobs = self._fold(JOB_FOLD, "job_timers", lanes=lanes, also=self._hedges.taken)
        self.responses = self._fold(
            RESPONSE_FOLD, "response_timers", partial(response_timer, webhooks), also=self._hedge_runs.taken,
            hedges=self._hedges,
        )  # fmt: skip
        self.responses.rows.watch(self._hedge_runs)
        self.consumer = FoldConsumer(
            life, broker, host, (self.jobs.rows, self.responses.rows),
            {
                "requests": ("intake", self._take_requests),
                "jobs": ("job_fold", self.jobs.take),
                "responses": ("response_fold", self.responses.take),
            },
            self._recovered, handled, wrong,
        )  # fmt: skip
        self._intake = Publisher(life, broker, "intake", self._heard)
        client: Any = Client(life, provider, repeats=wrong.repeats_creates)
        unfollowed: Any = None
        openai = OpenAIProvider(client, unfollowed, life.now_ms)
        access = ProviderAccess(openai, lanes, rate, hedge_at=self._hedges.hedge_at_ms)
        creating, polling = (
            WorkerParts(access, self._reporting(who), self._bodies, webhooks, self._early)
            for who in ("submitter", "poller")
        )
        self._submitter = Submitter(self._submissions, creating, SubmitterLimits(concurrency=8, drain_ms=3_000))
        self._poller = Poller(self._poll_commands, polling, PollerLimits(concurrency=8, drain_ms=2_000))

    def start(self) -> None:
        spawn, stop = self.life.spawn, self._stop
        spawn(self._guarded(partial(self._board.run, stop)))
        for timers in (self.jobs, self.responses):
            spawn(self._guarded(partial(self._informed, timers.fire)))
            spawn(self._guarded(timers.watch))
            spawn(self._guarded(timers.rows.write_gathered))
        learning = () if self._learning is None else (self._learning.run,)
        parts = (self.consumer.run, self._submitter.run, self._poller.run, *learning)
        self._ending = {spawn(self._guarded(partial(self._informed, partial(part, stop)))) for part in parts}

    async def stop(self) -> None:
        """SIGTERM: finish the current work, leave the groups, end."""
        self._stop.set()
        self._submissions.nudge()
        self._poll_commands.nudge()
        await asyncio.wait(self._ending, timeout=2 * DRAIN_S)
        self.life.kill("stopped")

    def _reporting(self, who: str) -> Reporting[WorkerMetrics]:
        return Reporting(Publisher(self.life, self._broker, who, self._heard), METRICS, self.life.now_ms)

    async def _informed(self, part: Callable[[], Awaitable[None]]) -> None:
        """Start work only after the worker has read which lanes are closed."""
        await self._board.first_read()
        await part()

    async def _guarded(self, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except EXPECTED_ENDS as error:
            self.life.kill(f"ended by {error!r}")
        except Exception as error:
            self.life.chaos.defect(error)
            self.life.kill(f"ended by {error!r}")

    def _fold(
        self, fold: Fold[Any], who: str, make_timer: MakeTimer | None = None, lanes: Lanes | None = None,
        **parts: Any,
    ) -> "FoldParts":  # fmt: skip
        return FoldParts(
            self.life, self._broker, self._stores, fold, make_timer, who, self._results, self._wrong, lanes,
            self._learning if fold is RESPONSE_FOLD else None,
            heard={**self._heard, "submissions": self._written, "polls": self._poll_commands.landed},
            early=self._early, **parts,
        )  # fmt: skip

    def _landed(self, record: Any) -> None:
        self.consumer.landed(record)
        if record.topic == "jobs":
            self._early.landed(record)

    def _written(self, record: Any) -> None:
        self._submissions.landed(record)
        self._early.written(record)

    def _recovered(self, mine: set[int]) -> None:
        self._results.reassigned(mine)
        self._lanes.share = share_of(mine, self._broker.partitions)
        self._early.own(mine)
        for part in (self.jobs, self.responses):
            part.index.own(mine)
            part.admissions.own(mine)
        self._hedge_runs.own(mine)
        if self._learning is not None:
            self._learning.own(mine)

    async def _take_requests(self, partition: int, records: Sequence[Record]) -> None:
        """The same as `streams.agents.agents.Intake.take`, which needs Faust."""
        messages: list[Message] = []
        for record in records:
            messages += await take_request(
                record, tenant=DEFAULT_TENANT, now_ms=self.life.now_ms(), policy=self._policy, bodies=self._bodies,
                limits=self.life.chaos.limits,
            )  # fmt: skip
        await publish(self._intake, messages, "intake")


class FoldParts:
    """A fold with its table, its shell, its index and its timers."""

    def __init__(
        self, life: Life, broker: Broker, stores: LocalStores, fold: Fold[Any], make_timer: MakeTimer | None,
        who: str, results: Results, wrong: Wrong, lanes: Lanes | None, learning: PollLearning | None,
        early: EarlyCreates,
        heard: Mapping[str, Callable[[Any], None]] | None = None,
        also: Taken = untaken, hedges: Hedges | None = None,
    ) -> None:  # fmt: skip
        self.fold = fold
        self._life = life
        self.index = DueIndex(life.now_ms, AHEAD_MS)
        self.rows = Table(life, broker, stores, fold, wrong)
        self.rows.watch(IndexedRows(fold, self.index))
        if learning is not None:
            self.rows.watch(learning)
        self.admission = Admission(life.chaos.limits, "a")
        self.admissions = Admissions(self.admission, life.now_ms, broker.partitions)
        if fold is JOB_FOLD:
            self.rows.watch(self.admissions)
        taken = self.admissions.taken if fold is JOB_FOLD else untaken if learning is None else learning.taken
        self._held = JobTimers(
            self.index, self.rows.get, lanes.release if lanes else lambda _: 0, life.now_ms, self.admission,
            closed=lanes.closed if lanes else lambda _: None,
        )  # fmt: skip
        self._shell: FoldShell = wrong.shell()(
            wrong.fold(fold), rows=wrong.rows(self.rows), publisher=Publisher(life, broker, fold.name, heard),
            results=results, index=self.index, now_ms=life.now_ms, taken=both(taken, also),
        )  # fmt: skip
        if fold is JOB_FOLD:
            self._shell.grants = GrantsAtOnce(self._held, early, life.now_ms)
        if hedges is not None and make_timer is not None:
            make_timer = HedgeTimers(make_timer, self.index, hedges)
        self._scheduler = Scheduler(
            fold, index=self.index, rows=self.rows, make_timer=make_timer or self._held, let_go=self._held.let_go,
            next_ms=self._held.next_ms, publisher=Publisher(life, broker, who, heard), now_ms=life.now_ms,
        )  # fmt: skip

    async def take(self, partition: int, records: Sequence[Record]) -> None:
        await self._shell.take(partition, records)

    async def watch(self) -> None:
        """The same as the periodic task of `streams.app`."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            await self.rows.watch_changelog()

    async def fire(self) -> None:
        """`Scheduler.run`, which sleeps until a row is due."""
        while True:
            try:
                await self._scheduler.tick()
            except PartitionNotOwnedError as error:
                raise InvariantError("the scheduler read a partition that is not its own") from error
            index, now_ms = self.index, self._life.now_ms()
            wake_ms = self._scheduler.wake_ms(now_ms, IDLE_MS)
            index.wake_ms = max(wake_ms, now_ms + TICK_MS)
            index.sooner.clear()
            alarm = self._life.chaos.loop.call_later((index.wake_ms - now_ms) / 1000, index.sooner.set)
            await index.sooner.wait()
            alarm.cancel()
