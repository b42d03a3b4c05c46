"""Reads the topics and the provider's ledgers after a run, past all proxies and without shared memory."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from backstop.dev.evidence import creates, ledger_lines
from backstop.dev.invariants import Create, ProviderDelivery
from backstop.runtime.kafka.topic_reader import TopicReader, open_reader
from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.records import Record
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import PoisonError, decode
from schemas.dead_letters import DEAD_LETTER_RECORD
from schemas.jobs import JOB_FACT, AttemptUnknown
from schemas.responses import RESPONSE_FACT, PollFailed, ResponseObserved, WebhookReceived
from schemas.results import RESULT, JobResult
from streams.fold import job
from tests.torture.decay import Decay, completions, decay_of
from tests.torture.driver import Submitted
from tests.torture.hedges import HedgeLog, Races, cancellations, races

POLL_S = 0.5


@dataclass(slots=True)
class JobLog:
    """The jobs log, folded record by record."""

    states: dict[str, job.JobState] = field(default_factory=dict)
    granted: Counter[str] = field(default_factory=Counter)
    """Accepted creates that the fold ever accounted for, of a job."""
    deadlines_ms: dict[str, int] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    facts: int = 0
    poisons: int = 0
    unknown_outcomes: int = 0
    hedges: HedgeLog = field(default_factory=HedgeLog)

    def take(self, record: Record) -> None:
        try:
            event = decode(JOB_FACT, record.value)
        except PoisonError:
            self.poisons += 1
            return
        self.facts += 1
        step = job.step(self.states.get(event.job_id, job.Absent()), event)
        self.hedges.take(event, step.state, ignored=step.ignored is not None)
        if step.ignored is not None:
            return
        self.unknown_outcomes += isinstance(event, AttemptUnknown)
        state = self.states[event.job_id] = step.state
        if isinstance(state, job.Waiting | job.Active | job.BackingOff):
            self.open.add(event.job_id)
            self.deadlines_ms[event.job_id] = state.spec.deadline_at_ms
            self.granted[event.job_id] = max(self.granted[event.job_id], state.attempts.accounted())
        else:
            self.open.discard(event.job_id)


@dataclass(slots=True)
class Results:
    """As a `read_committed` consumer sees them."""

    count: Counter[str] = field(default_factory=Counter)
    first: dict[str, JobResult] = field(default_factory=dict)
    seen_ms: dict[str, int] = field(default_factory=dict)
    """The time of the first record, as its writer stamped it."""

    def take(self, record: Record) -> None:
        if record.value is None:
            return
        result = RESULT.validate_json(record.value)
        self.count[result.job_id] += 1
        self.first.setdefault(result.job_id, result)
        self.seen_ms.setdefault(result.job_id, record.timestamp_ms)


@dataclass(slots=True)
class Evidence:
    """All of it."""

    healed_at_ms: int = 0
    """From here on nothing was broken any more."""
    jobs: JobLog = field(default_factory=JobLog)
    results: Results = field(default_factory=Results)
    results_uncommitted: int = 0
    commands: set[str] = field(default_factory=set)
    """Ids on `submissions`."""
    webhooks: set[str] = field(default_factory=set)
    """Webhook ids that are in a log, or set aside."""
    letters: Counter[str] = field(default_factory=Counter)
    """Dead letters by reason."""
    poisoned: set[str] = field(default_factory=set)
    """Ids of the dead letters of `requests`."""
    creates: list[Create] = field(default_factory=list)
    deliveries: list[ProviderDelivery] = field(default_factory=list)
    rows: dict[str, str] = field(default_factory=dict)
    """Status in the read model."""
    completed_ms: dict[str, int] = field(default_factory=dict)
    """When the provider first completed a response of a job."""
    cancelled: set[str] = field(default_factory=set)
    """Responses that the provider cancelled."""
    worker_kills_ms: list[int] = field(default_factory=list)
    """When workers were killed."""
    answers: Counter[str] = field(default_factory=Counter)
    """Ids of the facts that polls and cancels brought."""

    @property
    def decay(self) -> Decay:
        return decay_of(self.results.first, self.jobs.deadlines_ms, self.completed_ms, self.answers)

    @property
    def races(self) -> Races:
        return races(self.jobs.hedges, self.creates, self.results.first, self.cancelled, self.worker_kills_ms)


async def settle(reader: TopicReader, submitted: Submitted, evidence: Evidence, within_s: float) -> float:
    """Read `jobs` and `results` on until nothing is open any more, or for `within_s`. How long that took."""
    began_s = monotonic_s()
    while True:
        for topic, take in (("jobs", evidence.jobs.take), ("results", evidence.results.take)):
            async for batch in reader.read(await reader.ends(reader.partitions(topic))):
                for record in batch:
                    take(record)
        waiting = any(known.job_id not in evidence.results.count for known in submitted.acknowledged)
        took_s = monotonic_s() - began_s
        if not (waiting or evidence.jobs.open) or took_s >= within_s:
            return took_s
        await asyncio.sleep(POLL_S)


async def read_rest(reader: TopicReader, settings: RuntimeSettings, ledgers: Path, evidence: Evidence) -> None:
    """Everything else. The ledgers first: what they tell of must then be in the logs, though hooks still come."""
    evidence.creates = creates(ledgers)
    evidence.deliveries = [delivery_of(line) for line in ledger_lines(ledgers / "deliveries.jsonl")]
    evidence.completed_ms = completions(ledger_lines(ledgers / "truth.jsonl"))
    evidence.cancelled = cancellations(ledger_lines(ledgers / "truth.jsonl"))
    for record in await reader.read_all(reader.partitions("submissions")):
        evidence.commands.add(str(orjson.loads(record.value or b"{}").get("id")))
    async for batch in reader.read(await reader.ends(reader.partitions("responses"))):
        for record in batch:
            _take_response(record, evidence)
    for record in await reader.read_all(reader.partitions("dead-letters")):
        letter = decode(DEAD_LETTER_RECORD, record.value)
        evidence.letters[getattr(letter, "reason", "resolved")] += 1
        evidence.webhooks.add(letter.id.removesuffix("/set-aside"))
        origin = getattr(letter, "origin", None)
        if origin is not None and origin.topic.endswith("requests"):
            evidence.poisoned.add(letter.id)
    evidence.results_uncommitted = await _uncommitted(settings)


def _take_response(record: Record, evidence: Evidence) -> None:
    try:
        fact = decode(RESPONSE_FACT, record.value)
    except PoisonError:
        return
    if isinstance(fact, WebhookReceived):
        evidence.webhooks.add(fact.webhook_id)
    elif isinstance(fact, ResponseObserved | PollFailed):
        evidence.answers[fact.id] += 1


async def _uncommitted(settings: RuntimeSettings) -> int:
    """Records on `results` that only a `read_uncommitted` consumer sees, and repeats."""
    async with open_reader(settings, "read_uncommitted") as reader:
        return len(await reader.read_all(reader.partitions("results")))


def delivery_of(line: Mapping[str, Any]) -> ProviderDelivery:
    of_response = str(line.get("type", "response.")).startswith("response.")
    return ProviderDelivery(
        str(line["webhook_id"]), int(line["status"] or 0), bool(line["authentic"]), of_response, str(line["outcome"])
    )
