"""Lanes of several workers over one log, each with its own pace and clock: they agree, and one at a time probes."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import Cause
from schemas.codec import decode, encode
from schemas.lanes import ALL_MODELS, LANE_FACT, CreateFact, ProbeClaimed
from streams.policy.lanes import FAILURES_MAX, PROBE_ANSWER_MS_MAX, PROBE_WAIT_MS, Go, Held, Lane
from streams.provider import account_name
from streams.workers import lanes as shell
from streams.workers.lanes import UNREAD_MAX, Lanes

MODEL = "m"
T0 = 1_795_341_600_000


def again(fact: CreateFact) -> CreateFact:
    """The fact as it is read from the log."""
    read = decode(LANE_FACT, encode(fact))
    assert isinstance(read, CreateFact)
    return read


@dataclass
class Worker:
    lanes: Lanes
    skew_ms: int
    position: int = 0


@dataclass
class Log:
    """The topic, and the workers that read it."""

    workers: list[Worker] = field(default_factory=list)
    facts: list[CreateFact] = field(default_factory=list)
    now_ms: int = T0

    def join(self, skew_ms: int = 0, account: str = account_name()) -> Worker:
        lanes = Lanes(lambda: self.now_ms + skew_ms, account=account)
        lanes.join(lambda fact: self.facts.append(again(fact)))
        worker = Worker(lanes, skew_ms)
        self.workers.append(worker)
        return worker

    def read(self, worker: Worker, count: int = 1_000_000) -> None:
        for fact in self.facts[worker.position : worker.position + count]:
            worker.position += 1
            worker.lanes.read(fact, self.now_ms + worker.skew_ms)

    def read_all(self) -> None:
        for worker in self.workers:
            self.read(worker)


def closed(worker: Worker) -> bool:
    return worker.lanes.of(MODEL).closed is not None


def fail(worker: Worker, count: int = 1, cause: Cause = "overloaded") -> None:
    for _ in range(count):
        number = next(_numbers)
        worker.lanes.failed(MODEL, f"c{number}", cause, "http_503")


_numbers = iter(range(10**9))


def test_failures_count_together_and_close_the_lane_of_every_worker() -> None:
    log = Log()
    one, two, idle = log.join(), log.join(), log.join()
    fail(one, FAILURES_MAX - 2)
    log.read_all()
    fail(two)
    assert not closed(two)
    fail(two)
    log.read_all()
    assert [closed(worker) for worker in (one, two, idle)] == [True] * 3


def test_an_outcome_of_its_own_counts_before_it_was_read_back() -> None:
    log = Log()
    worker = log.join()
    fail(worker, FAILURES_MAX)
    assert closed(worker)


def test_a_worker_that_starts_in_an_outage_starts_closed() -> None:
    log = Log()
    fail(log.join(), FAILURES_MAX)
    late = log.join()
    log.read(late)
    assert closed(late)
    assert isinstance(late.lanes.ask(MODEL, "c"), Held)


def test_one_workers_probe_opens_the_lane_for_all() -> None:
    log = Log()
    one, two = log.join(), log.join()
    fail(one, FAILURES_MAX)
    log.read_all()
    log.now_ms += PROBE_WAIT_MS
    assert isinstance(one.lanes.ask(MODEL, "p"), ProbeClaimed)
    log.read_all()
    assert one.lanes.verdict(MODEL, "p") == Go(probe=True)
    assert isinstance(two.lanes.ask(MODEL, "q"), Held)
    one.lanes.succeeded(MODEL, "p")
    log.read_all()
    assert not closed(one)
    assert not closed(two)
    assert one.lanes.of(MODEL).turn == two.lanes.of(MODEL).turn == 1


MODELS = [f"m{number}" for number in range(5)]


def test_a_condition_of_the_account_holds_every_model_and_one_probe_opens_all() -> None:
    log = Log()
    one, two = log.join(), log.join()
    one.lanes.failed("m0", "c", "account", "invalid_api_key", account_wide=True)
    log.read_all()
    log.now_ms += PROBE_WAIT_MS
    assert {worker.lanes.closed(model) is not None for worker in (one, two) for model in MODELS} == {True}
    assert one.lanes.all().keys() == {ALL_MODELS}, "no model's lane is closed"
    turns = asyncio.run(_sent_by_all(log))
    assert Counter(map(repr, turns))[repr(Go(probe=True))] == 1
    assert sum(isinstance(turn, Held) for turn in turns) == 2 * len(MODELS) - 1
    one.lanes.succeeded("m3", "p")
    log.read_all()
    assert {worker.lanes.closed(model) for worker in (one, two) for model in MODELS} == {None}
    assert one.lanes.release("m1") == two.lanes.release("m4") == 0


async def _sent_by_all(log: Log) -> list[Go | Held]:
    async def read_on() -> None:
        while True:
            await asyncio.sleep(0)
            log.read_all()

    reading = asyncio.create_task(read_on())
    try:
        sends = (
            worker.lanes.send(model, f"{model}/{worker.skew_ms}/{id(worker)}")
            for worker in log.workers
            for model in MODELS
        )
        return await asyncio.gather(*sends)
    finally:
        reading.cancel()


def test_one_waiting_job_of_all_models_is_let_through_as_the_accounts_probe() -> None:
    log = Log()
    worker = log.join()
    worker.lanes.failed("m0", "c", "account", "invalid_api_key", account_wide=True)
    log.read_all()
    log.now_ms += PROBE_WAIT_MS
    assert sorted(worker.lanes.release(model) == 0 for model in MODELS) == [False] * 4 + [True]


def test_a_probe_that_fails_otherwise_says_nothing_of_the_account_and_a_permission_that_it_serves() -> None:
    kinds: list[tuple[Cause, bool]] = [("overloaded", False), ("unsent", False), ("never", True), ("account", True)]
    for cause, opens in kinds:
        log = Log()
        worker = log.join()
        worker.lanes.failed("m0", "c", "account", "invalid_api_key", account_wide=True)
        log.read_all()
        log.now_ms += PROBE_WAIT_MS
        assert isinstance(worker.lanes.ask(ALL_MODELS, "p"), ProbeClaimed)
        log.read_all()
        worker.lanes.failed("m1", "p", cause, "x")
        log.read_all()
        assert (worker.lanes.of(ALL_MODELS).closed is None) == opens, cause
        assert (worker.lanes.of("m1").closed is not None) == (cause == "account")
        again = worker.lanes.of(ALL_MODELS).closed
        assert again is None or (again.probing is None and again.probes == 0), (
            "its turn is given back, and waits no longer"
        )


def test_responses_that_end_with_a_condition_of_the_account_close_it_at_the_third() -> None:
    log = Log()
    worker = log.join()
    worker.lanes.succeeded("m1", "c")
    worker.lanes.succeeded("m2", "d")
    for number, model in enumerate(("m1-2026-01-01", "m2", "m1")):
        assert worker.lanes.closed("m0") is None
        worker.lanes.ended(model, f"resp_{number}", "account", "insufficient_quota", account_wide=True)
    assert worker.lanes.closed("m0") is not None


def test_a_calm_lane_writes_nothing_and_a_mixed_one_a_record_for_each_change() -> None:
    log = Log()
    worker = log.join()
    for number in range(100):
        worker.lanes.succeeded(MODEL, f"c{number}")
        worker.lanes.failed(MODEL, f"d{number}", "never", "invalid_value")
    assert log.facts == []
    assert worker.lanes.all() == {}
    fail(worker)
    worker.lanes.succeeded(MODEL, "c")
    worker.lanes.succeeded(MODEL, "d")
    assert [fact.type for fact in log.facts] == ["create_failed", "create_served"]


def test_answers_to_what_was_in_flight_when_it_closed_write_nothing() -> None:
    log = Log()
    worker = log.join()
    fail(worker, 64)
    assert len(log.facts) == FAILURES_MAX


def test_an_account_of_another_key_has_lanes_of_its_own() -> None:
    log = Log()
    wrong, right = log.join(account=account_name("u", "wrong")), log.join(account=account_name("u", "right"))
    fail(wrong, cause="account")
    log.read_all()
    assert closed(wrong)
    assert not closed(right)


def test_words_of_a_request_do_not_go_to_the_topic_and_those_of_the_account_do() -> None:
    log = Log()
    worker = log.join()
    worker.lanes.failed(MODEL, "c1", "faulty", "x", "what the prompt said")
    worker.lanes.failed(MODEL, "c2", "account", "x" * 500, "no credit " * 100)
    assert [getattr(fact, "message", "")[:9] for fact in log.facts] == ["", "no credit"]


def test_own_facts_that_are_never_read_back_are_bounded() -> None:
    worker = Log().join()
    for _ in range(3 * UNREAD_MAX):
        fail(worker)
        worker.lanes.succeeded(MODEL, f"s{next(_numbers)}")
    assert len(worker.lanes._unread[MODEL]) <= UNREAD_MAX
    fail(worker, FAILURES_MAX)
    assert closed(worker)


def test_lanes_are_bounded_and_a_closed_one_is_kept() -> None:
    told: list[str] = []
    lanes = Lanes(lambda: T0, lambda model, _: told.append(model))
    lanes.failed("closed", "c", "account", "x")
    for number in range(shell.LANES_MAX + 10):
        lanes.failed(f"m{number}", "c", "overloaded", "x")
    assert len(lanes.all()) == shell.LANES_MAX
    assert told == ["closed"]
    assert "closed" in lanes.all()


def test_a_worker_without_a_board_probes_by_itself() -> None:
    now_ms = T0
    lanes = Lanes(lambda: now_ms)
    lanes.failed(MODEL, "c", "account", "x")
    now_ms += PROBE_WAIT_MS
    assert asyncio.run(lanes.send(MODEL, "p")) == Go(probe=True)
    assert isinstance(asyncio.run(lanes.send(MODEL, "q")), Held)
    lanes.succeeded(MODEL, "p")
    assert asyncio.run(lanes.send(MODEL, "q")) == Go()


# -- any interleaving

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create"] * 6 + ["answer"] * 4 + ["read"] * 8 + ["wait"] * 3 + ["join", "die"]),
        st.integers(0, 5),
        st.sampled_from([10, 4_000, 61_000]),
    ),
    max_size=60,
)


class Play:
    """Workers send creates to a provider that is away. A create whose worker died is never answered."""

    def __init__(self) -> None:
        self.log = Log()
        self.asked: list[tuple[Worker, str]] = []
        self.out: list[tuple[Worker, str, int, bool]] = []
        """Sent and not answered: worker, command, when, whether it was a probe."""
        self.probes_ms: list[int] = []
        self.last_over_ms: int | None = None
        for skew_ms in (0, 3_600_000, -7_200_000):
            self.log.join(skew_ms)

    def create(self, worker: Worker) -> None:
        command_id = f"c{next(_numbers)}"
        asked = worker.lanes.ask(MODEL, command_id)
        if isinstance(asked, ProbeClaimed):
            self.asked.append((worker, command_id))
        elif isinstance(asked, Go):
            self._sent(worker, command_id, asked)

    def read(self, worker: Worker, count: int) -> None:
        self.log.read(worker, count)
        read = {fact.id for fact in self.log.facts[: worker.position]}
        for each in [each for each in self.asked if each[0] is worker]:
            if any(identity.startswith(f"{each[1]}/claim/") for identity in read):
                self.asked.remove(each)
                worker.lanes._claims.pop(MODEL, None)  # as `send` does at the end of its wait
                verdict = worker.lanes.verdict(MODEL, each[1])
                if isinstance(verdict, Go):
                    self._sent(worker, each[1], verdict)

    def _sent(self, worker: Worker, command_id: str, go: Go) -> None:
        now_ms = self.log.now_ms
        if go.probe:
            alive = [at_ms for _, _, at_ms, probe in self.out if probe and now_ms - at_ms < PROBE_ANSWER_MS_MAX]
            assert not alive, "a second probe goes out"
            if self.last_over_ms is not None:
                assert now_ms - self.last_over_ms >= PROBE_WAIT_MS, "a probe goes out too soon"
            self.probes_ms.append(now_ms)
        self.out.append((worker, command_id, now_ms, go.probe))

    def answer(self, which: int, *, well: bool = False) -> None:
        if not self.out:
            return
        worker, command_id, sent_ms, probe = self.out.pop(which % len(self.out))
        if worker not in self.log.workers or self.log.now_ms - sent_ms >= PROBE_ANSWER_MS_MAX:
            return
        if well:
            worker.lanes.succeeded(MODEL, command_id)
        else:
            worker.lanes.failed(MODEL, command_id, "overloaded", "http_503")
        if probe:
            self.last_over_ms = self.log.now_ms

    def die(self, which: int) -> None:
        if len(self.log.workers) > 2:
            dead = self.log.workers.pop(which % len(self.log.workers))
            self.asked = [each for each in self.asked if each[0] is not dead]


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(STEPS)
def test_whatever_the_order_one_probe_is_out_and_the_lane_opens_when_the_provider_is_back(
    steps: list[tuple[str, int, int]],
) -> None:
    play = Play()
    fail(play.log.workers[0], FAILURES_MAX)
    play.log.read_all()
    play.log.now_ms += PROBE_WAIT_MS
    for step, number, wait_ms in steps:
        workers = play.log.workers
        worker = workers[number % len(workers)]
        match step:
            case "create":
                play.create(worker)
            case "answer":
                play.answer(number)
            case "read":
                play.read(worker, 1 + number)
            case "wait":
                play.log.now_ms += wait_ms
            case "join":
                if len(workers) < 5:
                    play.read(play.log.join(skew_ms=number * 1_000_000), 1_000_000)
            case _:
                play.die(number)
    # The provider is back, and the broker delivers.
    for _ in range((PROBE_ANSWER_MS_MAX + 60_000) // 5_000 + 2):
        play.log.now_ms += 5_000
        for worker in play.log.workers:
            play.create(worker)
        for worker in play.log.workers:
            play.read(worker, 1_000_000)
        while play.out:
            play.answer(0, well=True)
        for worker in play.log.workers:
            play.read(worker, 1_000_000)
    assert not any(closed(worker) for worker in play.log.workers)
    beliefs = [_without_times(worker.lanes.of(MODEL)) for worker in play.log.workers]
    assert beliefs == beliefs[:1] * len(beliefs)


def _without_times(lane: Lane) -> tuple[int, bool]:
    return lane.failures, lane.closed is None


def test_the_play_meets_what_it_is_about() -> None:
    play = Play()
    for _ in range(400):
        for worker in play.log.workers:
            play.create(worker)
        while play.out:
            play.answer(0)
        for worker in play.log.workers:
            play.read(worker, 1_000_000)
        play.log.now_ms += 1_000
    minutes = Counter(at_ms // 60_000 for at_ms in play.probes_ms)
    assert 7 <= len(play.probes_ms) <= 10
    assert max(minutes.values()) <= 3
    claims = [fact for fact in play.log.facts if isinstance(fact, ProbeClaimed)]
    assert len(claims) > len(play.probes_ms)
