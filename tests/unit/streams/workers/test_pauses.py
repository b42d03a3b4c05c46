"""Pauses of operators at a worker: what they hold, how what they held begins again, and what a probe may not do."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from backstop.runtime.kafka.topic_follower import facts_for
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import encode
from schemas.commands import CreateResponse
from schemas.jobs import JobTimerFired
from schemas.lanes import CreateFailed
from schemas.pauses import PAUSE_FACT, PAUSED_CODE, CreatesPaused, CreatesResumed, PauseScope
from schemas.results import Reason
from streams.fold import job
from streams.fold.batch import JOB_FOLD
from streams.fold.job_states import BackingOff, spec_of_submitted
from streams.fold.rows import encode_row
from streams.policy.admission import Admission
from streams.policy.lanes import PROBE_WAIT_MS, RAMP_FIRST, RAMP_MS, Share
from streams.policy.limits import read_rules
from streams.scheduler.due import DueIndex
from streams.scheduler.job_timers import ASK_AGAIN_MS_MAX, JobTimers
from streams.submission import SubmissionPolicy
from streams.workers.lanes import Lanes
from streams.workers.pauses import PauseBoard, Pauses
from tests.simulation.loop import VirtualLoop
from tests.support.builders import DEADLINE, MODEL, T0, submitted
from tests.unit.streams.fold.states import backing_off
from tests.unit.streams.workers.submitting import NOW_MS, create, probing, submitting
from tests.unit.streams.workers.test_lane_board import T0 as BOARD_T0

RETRY_AT = T0 + 1_000
PAUSED_MS = (DEADLINE - T0) // 2


def paused(by: str = "Ann", **scope: Any) -> CreatesPaused:
    whole = PauseScope(**scope)
    return CreatesPaused(id=f"{whole.pause_id}/1", at_ms=NOW_MS, scope=whole, by=by, why="the key is rotated")


def resumed(pause: CreatesPaused, at_ms: int = NOW_MS) -> CreatesResumed:
    return CreatesResumed(
        id=f"{pause.key}/{at_ms}/resumed",
        at_ms=at_ms,
        scope=pause.scope,
        by="Bob",
        why="done",
        paused_at_ms=pause.at_ms,
    )


def test_a_pause_holds_the_creates_that_fit_all_of_its_scope() -> None:
    pauses = Pauses("0a1b2c3d")
    of: Callable[..., CreateResponse] = lambda **changes: create().model_copy(update=changes)  # noqa: E731
    for scope, fits, others in (
        ({"model": "m"}, of(), of(model="m-2")),
        ({"tenant": "acme"}, of(), of(tenant="other")),
        ({"tag": "nightly"}, of(tags=("a", "nightly")), of(tags=("night",))),
        ({"model": "m", "tenant": "acme"}, of(), of(model="n")),
        ({"account": "0a1b2c3d"}, of(), None),
        ({"account": "ffffffff"}, None, of()),
        ({}, of(model="any", tenant="other"), None),
    ):
        pause = paused(**scope)
        pauses.take(pause, NOW_MS)
        if fits is not None:
            assert pauses.holding(fits) == pause, scope
        if others is not None:
            assert pauses.holding(others) is None, scope
        pauses.take(resumed(pause), NOW_MS)
        assert pauses.holding(of()) is None


def test_a_create_waits_while_one_of_two_pauses_holds_it() -> None:
    pauses = Pauses()
    of_model, of_tenant = paused(model="m"), paused(tenant="acme")
    for fact in (of_model, of_tenant, paused(by="Cay", model="m"), resumed(of_tenant)):
        pauses.take(fact, NOW_MS)
    found = pauses.holding(create())
    assert found is not None
    assert found.words == "paused by Cay: the key is rotated"


def test_a_paused_create_is_not_sent_and_says_by_whom_and_why(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path) as bench:
            bench.pauses.take(paused(tenant="acme", model="m"), NOW_MS)
            bench.commands.publish(create("job_1"), create("job_2").model_copy(update={"tenant": "other"}))
            facts = {fact.job_id: fact for fact in await bench.facts(2)}
            held = facts["job_1"]
            assert (held.cause, held.code, held.message) == ("held", PAUSED_CODE, "paused by Ann: the key is rotated")
            assert facts["job_2"].type == "attempt_accepted"
            assert bench.server.posts == 1

    asyncio.run(scenario())


def test_a_probe_whose_create_is_paused_while_it_waits_is_not_sent_and_gives_the_turn_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with probing(tmp_path) as probe:
            bench = probe.bench
            bench.pauses.take(paused(model="m"), probe.now_ms[0])
            probe.read_own_claim()
            (fact,) = await bench.facts(1)
            assert (fact.cause, fact.code, bench.server.posts) == ("held", PAUSED_CODE, 0)
            assert probe.is_given_back()
            assert isinstance(probe.written[-1], CreateFailed)

    asyncio.run(scenario())


def row(tenant: str = "acme", tags: tuple[str, ...] = ()) -> bytes:
    spec = spec_of_submitted(submitted(tenant=tenant, tags=tags))
    state = backing_off(RETRY_AT, Reason(code="http_503"))
    return encode_row(JOB_FOLD.encode_state(BackingOff(spec, state.attempts, RETRY_AT, state.why)), 7)


class Timers:
    """The timers of waiting jobs, with a lane and pauses, at a time that the test sets."""

    def __init__(self, **rows: bytes) -> None:
        self.now_ms = T0
        clock: Callable[[], int] = lambda: self.now_ms  # noqa: E731
        self.lanes, self.pauses = Lanes(clock), Pauses(share=Share)
        self.index = DueIndex(clock, ahead_ms=DEADLINE)
        self.index.own([0])
        self.rows = {name.encode(): value for name, value in rows.items()}
        self.timers = JobTimers(
            self.index,
            lambda _, key: self.rows.get(key),
            self.lanes.release,
            clock,
            Admission(read_rules(""), "a"),
            self.pauses,
        )
        for key in self.rows:
            self.index.put(0, key, RETRY_AT)

    def tick(self, now_ms: int) -> list[str]:
        self.now_ms = now_ms
        self.timers.let_go([0])
        fired = []
        for due in self.index.due(now_ms, 1_000, [0]):
            timer = self.timers(due, self.rows.get(due.key), now_ms)
            if isinstance(timer, JobTimerFired):
                fired.append(timer.key)
            self.index.taken(due)
        return fired


def test_jobs_that_no_pause_holds_pass_paused_ones_of_the_same_lane() -> None:
    timers = Timers(job_a=row("acme"), job_b=row("acme", ("x",)), job_c=row("other"), job_d=row("other", ("x",)))
    timers.pauses.take(paused(tenant="acme"), T0)
    of_tag = paused(tag="x")
    timers.pauses.take(of_tag, T0)
    assert timers.tick(RETRY_AT) == ["job_c"]
    timers.pauses.take(resumed(of_tag), RETRY_AT + 10)
    assert timers.tick(RETRY_AT + ASK_AGAIN_MS_MAX) == ["job_d"]
    assert len(timers.timers) == 2
    assert timers.tick(DEADLINE) == ["job_a", "job_b"], "a deadline passes during a pause, too"


def test_what_a_pause_held_begins_along_a_ramp_and_none_is_lost() -> None:
    timers = Timers(**{f"job_{number:03}": row() for number in range(100)})
    pause = paused(model=MODEL)
    timers.pauses.take(pause, T0)
    assert [timers.tick(RETRY_AT + after_ms) for after_ms in (0, 1_000, PAUSED_MS)] == [[], [], []]
    at_ms = RETRY_AT + PAUSED_MS
    timers.pauses.take(resumed(pause), at_ms)
    begun = timers.tick(at_ms + ASK_AGAIN_MS_MAX)
    assert RAMP_FIRST <= len(begun) < 50
    after_ms = ASK_AGAIN_MS_MAX
    while len(begun) < 100 and after_ms < RAMP_MS:
        after_ms += 20
        begun += timers.tick(at_ms + after_ms)
    assert len(set(begun)) == len(begun) == 100
    assert len(timers.timers) == 0


def test_a_second_attempt_waits_for_a_pause_and_not_for_one_that_is_over() -> None:
    pauses = Pauses("0a1b2c3d")
    held: Callable[..., bool] = lambda at_ms, model="m", tenant="acme": pauses.holds(model, tenant, at_ms)  # noqa: E731
    pause = paused(model="m")
    pauses.take(pause, NOW_MS)
    assert held(NOW_MS + 10 * RAMP_MS)
    assert not held(NOW_MS, model="m-2")
    over_ms = NOW_MS + 20 * RAMP_MS
    pauses.take(resumed(pause, over_ms), over_ms)
    for _ in range(10 * RAMP_FIRST):
        assert not held(over_ms), "to ask takes no place on the ramp"
    while not pauses.release(pause.key, over_ms):
        """The jobs that waited begin."""
    assert held(over_ms), "it begins no sooner than jobs that wait"
    assert not held(over_ms + RAMP_MS), "no later fact of a pause is needed"


def test_a_worker_that_starts_long_after_a_pause_holds_no_second_attempt() -> None:
    pauses, pause = Pauses(), paused()
    for fact in (pause, resumed(pause)):
        pauses.take(fact, NOW_MS)
    assert not pauses.holds("m", "acme", NOW_MS + RAMP_MS)


def test_a_paused_job_is_no_probe_of_its_closed_lane() -> None:
    timers = Timers(job_a=row(), job_b=row())
    pause = paused(model=MODEL)
    timers.pauses.take(pause, T0)
    timers.now_ms = RETRY_AT
    timers.lanes.failed(MODEL, "c1", "account", "invalid_api_key")
    assert timers.tick(RETRY_AT) == []
    assert timers.tick(RETRY_AT + 10 * PROBE_WAIT_MS) == []
    timers.pauses.take(resumed(pause), timers.now_ms)
    assert timers.tick(timers.now_ms + ASK_AGAIN_MS_MAX) == ["job_a"], "one probe, not both"


class Record:
    topic, offset, timestamp = "pauses", 0, BOARD_T0

    def __init__(self, value: bytes) -> None:
        self.value = value


class Consumer:
    """One partition with these records. It starts only once the broker is there."""

    there = asyncio.Event()
    values: tuple[bytes, ...] = ()

    def __init__(self, *_topics: str, **_options: Any) -> None:
        self._fetcher, self._position = None, 0

    async def start(self) -> None:
        await self.there.wait()

    async def stop(self) -> None:
        """Nothing is held."""

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset((TopicPartition("backstop.pauses", 0),))

    async def end_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, len(self.values))

    async def position(self, _tp: TopicPartition) -> int:
        return self._position

    async def getmany(self, *, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        await asyncio.sleep(min(timeout_ms, 10) / 1_000)
        found, self._position = [Record(value) for value in self.values[self._position :]], len(self.values)
        return {next(iter(self.assignment())): found} if found else {}


def test_a_starting_worker_waits_until_it_knows_the_pauses() -> None:
    async def scenario() -> None:
        Consumer.there, Consumer.values = asyncio.Event(), (encode(paused(model="m")),)
        pauses, stop = Pauses(), asyncio.Event()
        board = PauseBoard(RuntimeSettings(), pauses, lambda: BOARD_T0, consumer=Consumer)
        waiting = asyncio.create_task(board.first_read(stop))
        running = asyncio.create_task(board.run(stop))
        await asyncio.wait({waiting}, timeout=3_600)
        assert not waiting.done()
        Consumer.there.set()
        await waiting
        assert pauses.holding(create()) is not None
        stop.set()
        await running

    with asyncio.Runner(loop_factory=lambda: VirtualLoop("order 0")) as runner:
        runner.run(scenario())


def test_a_worker_that_is_stopped_waits_no_more() -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        stop.set()
        await PauseBoard(RuntimeSettings(), Pauses(), lambda: BOARD_T0).first_read(stop)

    with asyncio.Runner(loop_factory=lambda: VirtualLoop("order 0")) as runner:
        runner.run(scenario())


def test_an_unreadable_fact_changes_nothing() -> None:
    pauses = Pauses()
    facts_for(pauses.take, PAUSE_FACT)(Record(b'{"type":"creates_frozen"}'))
    assert pauses.holding(create()) is None


def test_a_create_command_has_the_tags_of_jobs_that_say_so_and_of_older_ones_none() -> None:
    fact = submitted(tags=("nightly",))
    for sent, tags in ((None, None), (True, ("nightly",))):
        policy = fact.policy.model_copy(update={"tags_sent": sent})
        (command,) = job.step(job.Absent(), fact.model_copy(update={"policy": policy})).outputs
        assert isinstance(command, CreateResponse)
        assert command.tags == tags
    assert SubmissionPolicy().stamp(None, tagged=True).tags_sent is True
    assert SubmissionPolicy().stamp(None).tags_sent is None
