"""The whole system in one loop: upstream services, hosts with their workers, receiver, broker and provider."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from backstop.runtime.blobs import Bodies
from backstop.runtime.errors import BrokerUnavailableError
from receiver.ingress.signature import Verified
from receiver.ingress.webhooks import WebhookRules, to_message
from schemas.base import DEFAULT_TENANT, Message
from schemas.codec import canonical
from schemas.requests import Adopt, Cancel, Submit
from streams.adoptions import PreparedAdoption, to_adopted
from streams.policy.polls import PollPolicy
from streams.submission import SubmissionPolicy, prepare, to_cancel, to_submitted
from tests.simulation.blobs import MemoryBlobs
from tests.simulation.broker import FOLD_TOPICS, Broker
from tests.simulation.chaos import Chaos, Life
from tests.simulation.operators import LIMITS, Operators, turn_of
from tests.simulation.ports import Publisher
from tests.simulation.provider import Provider
from tests.simulation.tables import LocalStores, compacted, rebuilt
from tests.simulation.worker import INLINE_BYTES_MAX, POLLS, Worker
from tests.simulation.wrong import Wrong

BOUND_S = 45.0
"""Bound for the end of each job after the faults and the deadlines.

It covers session and rebalance, a restart, a drain, one call's timeout, and the skew of clocks.
"""

REST_S = 12.0
"""The pause after the last fault and before the checks, in which stopped lives continue and catch up."""

RESTART_S_MAX = 4.0
WEBHOOK_TRIES_MAX = 4

_RULES = WebhookRules(keys=(), tolerance_s=300, claim_grace_ms=2_500, forget_after_ms=120_000)


@dataclass(slots=True)
class Upstream:
    """The promises that were made to upstream services."""

    acknowledged: dict[str, int] = field(default_factory=dict)
    """Job id → its deadline, in ms."""
    bodies: dict[str, Submit] = field(default_factory=dict)
    poisons: int = 0
    done: int = 0


def spending_of(chaos: Chaos, job_id: str) -> dict[str, Any]:
    """A job's own cap and fallback; drawn apart, so that all else stays the same."""
    random = Random(f"spending {chaos.seed} {job_id}")
    given: dict[str, Any] = {}
    if random.random() < chaos.mixture.capped:
        given["max_tokens_spent"] = random.choice((2_100, 4_200, 9_000))
    if random.random() < chaos.mixture.falls_back:
        given["fallback"] = {"to": [{"model": "m2"}, {"model": "m3"}], "after_ms": random.choice((1_000, 5_000))}
    return given


def _never(_job_id: str, _attempt: str) -> bool:
    return False


class System:
    def __init__(
        self, chaos: Chaos, jobs: int, wrong: Wrong, *, learned: bool = False, operators: bool = False,
        polls: PollPolicy = POLLS,
    ) -> None:  # fmt: skip
        """:param learned: polls come by the learned schedule."""
        self.chaos = chaos
        self._operators = Operators(self, chaos.seed) if operators else None
        if operators:
            chaos.limits = LIMITS
        self._learned = learned
        self._polls = polls
        self._jobs = jobs
        self.wrong = wrong
        random = chaos.random
        self.broker = Broker(chaos, partitions=random.choice((1, 2, 3, 4)))
        chaos.rebalance_any = self.broker.rebalance_any
        self.provider = Provider(chaos, self._webhook, waits=self._waits if operators else _never)
        self.blobs = MemoryBlobs()
        self.upstream = Upstream()
        self.handled: set[tuple[str, int, int]] = set()
        self.policy = SubmissionPolicy(
            timeout_ms=40_000, retries_max=random.choice((0, 1, 2)), rejections_max=random.choice((2, 8)),
            backoff_base_ms=200, backoff_max_ms=5_000, command_valid_ms=random.choice((1_500, 6_000)),
            create_timeout_ms=3_000, adoption_grace_ms=random.choice((500, 6_000)),
            missing_grace_ms=random.choice((1_000, 6_000)), missing_patience_ms=3_000, forget_after_ms=600_000,
        )  # fmt: skip
        self.hedging: dict[str, Any] = {}
        """Of a worker: `hedge_share`, `knows_runs`."""
        self.workers: dict[str, Worker] = {}
        self._stores: dict[str, LocalStores] = {}
        self._lives = 0
        self._outside = Life(chaos, "outside", 0)
        self._tasks: list[asyncio.Task[None]] = []
        self._settled = False

    def _waits(self, job_id: str, attempt: str) -> bool:
        """Whether the job must be admitted, and the log has nothing yet that begins its first attempt."""
        facts = [
            record for log in self.broker.of_topic("jobs") for record in log.records if record.key == job_id.encode()
        ]
        begun = any(record.message_id.startswith((f"{job_id}/admitted", f"{job_id}/timer/")) for record in facts)
        must = any(b'"waits":true' in (record.value or b"") for record in facts)
        return attempt == "1" and must and not begun

    # -- hosts

    async def _host(self, name: str, starts_s: float) -> None:
        """Keeps a worker running: restarts it, sometimes stops it, and sometimes leaves it off for a while."""
        chaos, random = self.chaos, self.chaos.random
        stores = self._stores[name] = LocalStores()
        await asyncio.sleep(starts_s)
        while True:
            if chaos.chance(chaos.mixture.store_lost):
                chaos.met.add("store lost")
                stores.lose()
            skew_ms = random.randint(-chaos.mixture.skew_ms, chaos.mixture.skew_ms)
            self._lives += 1
            life = Life(chaos, f"{name}.{self._lives}", skew_ms)
            worker = self.workers[name] = Worker(
                life, name, self.broker, self.provider, stores, self.blobs, self.policy, self.handled, self.wrong,
                learned=self._learned, polls=self._polls, **self.hedging,
            )  # fmt: skip
            chaos.note(life.name, "START", f"skew {skew_ms} ms")
            worker.start()
            if chaos.on and random.random() < 0.3:
                self._tasks.append(chaos.loop.create_task(self._stop_after(worker, random.random() * 30)))
            await life.ended.wait()
            await life.gone()
            del self.workers[name]
            await asyncio.sleep(random.choice((0.1, 1.0, RESTART_S_MAX, 15.0 if chaos.on else 0.5)))

    async def _stop_after(self, worker: Worker, after_s: float) -> None:
        await asyncio.sleep(after_s)
        if self.chaos.on and not worker.life.dead:
            self.chaos.met.add("stopped by SIGTERM")
            self.chaos.note(worker.life.name, "SIGTERM")
            await worker.stop()

    # -- upstream

    async def _submit(self, job_id: str) -> None:
        chaos, random = self.chaos, self.chaos.random
        await asyncio.sleep(random.random() * chaos.mixture.arrival_s)
        text = "x" * random.choice((10, 10, 10, 500))
        submit = Submit(
            job_id=job_id, request={"model": "m", "input": text},
            timeout_ms=random.choice((3_000, 20_000, 40_000, 70_000)), tags=(job_id,),
            hedge=True if Random(f"hedge {job_id}").random() < chaos.mixture.hedge else None,
            **spending_of(chaos, job_id),
            **(turn_of(chaos.seed, job_id) if self._operators else {}),
        )  # fmt: skip
        self.upstream.bodies[job_id] = submit
        by_http = random.random() < 0.3
        await (self._by_http(job_id, submit) if by_http else self._by_kafka(job_id, submit))
        odd = random.random()
        if odd < 0.06:
            chaos.met.add("submitted again")
            await asyncio.sleep(random.random() * 20)
            await (self._by_http(job_id, submit) if by_http else self._by_kafka(job_id, submit))
        elif odd < 0.10:
            chaos.met.add("submitted with another body")
            other = submit.model_copy(update={"request": {"model": "m", "input": "other"}})
            await self._by_kafka(job_id, other, counts=False)
        elif odd < 0.18:
            chaos.met.add("cancel requested")
            await asyncio.sleep(random.random() * 10)
            cancel = Cancel(type="cancel", job_id=job_id)
            if random.random() < 0.5:
                self._put("requests", job_id, canonical(cancel.model_dump(mode="json", exclude_none=True)))
            else:
                await self.say(
                    to_cancel(cancel, job_id=job_id, tenant=DEFAULT_TENANT, ingress="http", at_ms=self.now_ms())
                )
        elif odd < 0.21:
            await self._spoil(job_id)
        self.upstream.done += 1

    async def _adopt(self, number: int, random: Random) -> None:
        """An application adopts a response that it created itself, that does not exist, or that belongs to a job."""
        await asyncio.sleep(random.random() * self.chaos.mixture.arrival_s)
        kind = random.choice(("elsewhere", "elsewhere", "ours", "unknown"))
        ours = sorted(self.provider.responses)
        response_id = random.choice(ours) if kind == "ours" and ours else f"elsewhere_{number}"
        if kind == "elsewhere":
            self.provider.elsewhere(response_id, random)
        self.chaos.met.add(f"adopted {kind}")
        timeout_ms = random.choice((5_000, 40_000))
        prepared = PreparedAdoption(Adopt(response_id=response_id, timeout_ms=timeout_ms))
        job_id, cancelled = prepared.given_job_id, random.random() < 0.2
        for _ in range(random.choice((1, 1, 2))):
            fact = to_adopted(prepared, job_id=job_id, tenant=DEFAULT_TENANT, at_ms=self.now_ms(), policy=self.policy)
            if await self.say(fact):
                self.upstream.acknowledged[job_id] = self.now_ms() + timeout_ms
        if cancelled:
            cancel = Cancel(type="cancel", job_id=job_id)
            await self.say(to_cancel(cancel, job_id=job_id, tenant=DEFAULT_TENANT, ingress="http", at_ms=self.now_ms()))

    async def _by_kafka(self, job_id: str, submit: Submit, *, counts: bool = True) -> None:
        self._put("requests", job_id, canonical(submit.model_dump(mode="json", exclude_none=True)))
        if counts:
            self._promised(job_id, submit, late_ms=60_000)

    async def _by_http(self, job_id: str, submit: Submit) -> None:
        fact = await to_submitted(
            prepare(submit), job_id=job_id, tenant=DEFAULT_TENANT, ingress="http", at_ms=self.now_ms(),
            policy=self.policy, bodies=Bodies(self.blobs, INLINE_BYTES_MAX), limits=self.chaos.limits,
        )  # fmt: skip
        if await self.say(fact):
            self._promised(job_id, submit, late_ms=0)

    def _promised(self, job_id: str, submit: Submit, late_ms: int) -> None:
        """`late_ms`: the greatest delay of intake. A job's timeout begins when intake takes it."""
        deadline_ms = self.now_ms() + late_ms + (submit.timeout_ms or 0)
        self.upstream.acknowledged[job_id] = max(self.upstream.acknowledged.get(job_id, 0), deadline_ms)

    async def _spoil(self, job_id: str) -> None:
        """Publish records that can't be processed, on any topic."""
        random = self.chaos.random
        topic = random.choice((*FOLD_TOPICS, "submissions", "polls"))
        value, key = random.choice((
            (b"\x00\xff not json", job_id), (b"[]", job_id), (None, job_id), (b'{"v": 99}', job_id), (b"{}", job_id),
            ((b'{"type": "timer_fired", "id": "x", "at_ms": 1, "job_id": "a", "response_id": "a", "due_ms": 2,'
              b' "next_poll_at_ms": 1}'), "b"),
        ))  # fmt: skip
        self.upstream.poisons += 1
        self.chaos.met.add(f"poison on {topic}")
        if topic == "requests":
            key = f"poison-{key}"
            named = "a" if value and b'"job_id"' in value else key
            self.upstream.acknowledged[named] = self.now_ms()
        self._put(topic, key, value)

    def _put(self, topic: str, key: str, value: bytes | None) -> None:
        self.broker.append(topic, key.encode(), value, self.now_ms())

    async def say(self, message: Message) -> bool:
        """Publish to the log as the receiver does, which answers only after the acknowledgement."""
        try:
            await Publisher(self._outside, self.broker, "receiver").publish([message])
        except BrokerUnavailableError:
            return False
        return True

    def now_ms(self) -> int:
        return self._outside.now_ms()

    # -- webhooks

    def _webhook(self, webhook_id: str, kind: str, response_id: str, ended_at_ms: int) -> None:
        body = {"type": kind, "created_at": ended_at_ms // 1000, "data": {"id": response_id}}
        accepted = Verified(webhook_id=webhook_id, sent_at_ms=ended_at_ms, key_id="k1")
        self._tasks.append(self.chaos.loop.create_task(self._deliver(accepted, canonical(body))))

    async def _deliver(self, accepted: Verified, body: bytes) -> None:
        for _ in range(WEBHOOK_TRIES_MAX):
            message = to_message(accepted, body, self.now_ms(), _RULES, 32)
            assert message is not None, "the event is of a response"
            if await self.say(message):
                return
            await asyncio.sleep(3.0)

    # -- the course of a run

    async def run(self, check: Callable[[], None]) -> None:
        """Run the system. `check` is called when it is at rest."""
        chaos, random = self.chaos, self.chaos.random
        self._outside_never_dies()
        create = chaos.loop.create_task
        hosts = random.choice((1, 2, 2, 3))
        for index in range(hosts):
            self._tasks.append(create(self._host(f"w{index}", 0.0 if index == 0 else random.random() * 20)))
        self._tasks += [create(self._submit(f"job-{number}")) for number in range(self._jobs)]
        drawn = [
            Random(random.random())
            for _ in range(self._jobs // chaos.mixture.adopted_per if chaos.mixture.adopted_per else 0)
        ]
        if self._operators is not None:
            self._tasks.append(create(self._operators.run()))
        self._tasks += [create(self._adopt(number, own)) for number, own in enumerate(drawn)]
        await asyncio.sleep(chaos.mixture.faults_end_s)
        while self.upstream.done < self._jobs:
            await asyncio.sleep(1.0)
        chaos.note("-", "NO MORE FAULTS")
        chaos.calm_down()
        await asyncio.sleep(REST_S)
        await self._until(self._all_results_out, self._last_deadline_s() + BOUND_S)
        await asyncio.sleep(chaos.mixture.webhook_late_s)
        if random.random() < 0.1:
            chaos.met.add("waited until all was forgotten")
            await asyncio.sleep(1.1 * self.policy.forget_after_ms / 1000)
        await self._until(self._at_rest, chaos.loop.time() + BOUND_S)
        check()

    def _outside_never_dies(self) -> None:
        self._outside.immortal = True

    def _last_deadline_s(self) -> float:
        now_s, now_ms = self.chaos.loop.time(), self.now_ms()
        last_ms = max(self.upstream.acknowledged.values(), default=now_ms)
        return now_s + max(0, last_ms - now_ms) / 1000

    async def _until(self, condition: Any, until_s: float) -> None:
        loop = self.chaos.loop
        while not condition() and loop.time() < until_s:
            await asyncio.sleep(0.25)

    def _all_results_out(self) -> bool:
        known: set[str] = set()
        for log in self.broker.results:
            known.update(job_id for _, job_id, _ in log.records)
        return known >= self.upstream.acknowledged.keys()

    def _at_rest(self) -> bool:
        """All records are taken, and owners have repaired the rows that a zombie left in a changelog."""
        changelogs = [log for topic in ("jobs", "responses") for log in self.broker.of_topic(f"{topic}-changelog")]
        return self._caught_up() and all(compacted(log.records) == rebuilt(log.records) for log in changelogs)

    def _caught_up(self) -> bool:
        """Each record of a fold's log and each command is taken and committed."""
        readers = dict.fromkeys(FOLD_TOPICS, "worker") | {"submissions": "submitter", "polls": "poller"}
        return all(
            self.broker.groups[group].committed.get((topic, log.partition), 0) >= log.end or not log.records
            for topic, group in readers.items() for log in self.broker.of_topic(topic)
        )  # fmt: skip

    async def end(self) -> None:
        """Stop all workers, tasks and lives of the run."""
        for worker in list(self.workers.values()):
            worker.life.kill("the run is over")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for life in self.chaos.lives:
            await life.gone()
