"""Invariants after a run, checked on the topics, the tables and the provider's ledger."""

from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

from backstop.readmodel.store import row_from
from schemas.codec import PoisonError, decode, encode
from schemas.results import RESULT, JobResult
from streams.early_creates import EARLY_MARK
from streams.fold import job, response
from streams.fold.batch import JOB_FOLD, RESPONSE_FOLD, Fold
from streams.fold.rows import encode_row
from streams.scheduler.due import Due
from tests.simulation.broker import FOLD_TOPICS
from tests.simulation.chaos import Met
from tests.simulation.hedges import judge_hedges
from tests.simulation.projection import ReadModel
from tests.simulation.system import BOUND_S, System
from tests.simulation.tables import compacted, rebuilt

READ_MODELS_SHARE = 0.15
"""The share of runs that are projected, too: a projection costs as much as all other checks together."""
SKEW_MS = 3_000
"""The greatest difference between the clocks of two lives (`chaos`)."""


@dataclass(frozen=True, slots=True)
class Violation:
    invariant: str
    detail: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.detail}"


@dataclass(slots=True)
class Refold:
    """A log folded again from its beginning, record by record."""

    rows: dict[int, dict[bytes, bytes]]
    states: dict[bytes, Any]
    outputs: dict[str, Any]
    retries: dict[bytes, int]
    """Job → the most accepted creates that its state ever accounted for."""
    poisons: int


def refold(system: System, fold: Fold[Any], met: Met) -> Refold:
    found = Refold({}, {}, {}, {}, 0)
    for log in system.broker.of_topic(fold.topic):
        states: dict[bytes, tuple[Any, int]] = {}
        for record in log.records:
            try:
                event = decode(fold.facts, record.value)
            except PoisonError:
                found.poisons += 1
                continue
            key = event.key.encode()
            if key != record.key:
                found.poisons += 1
                continue
            before = states.get(key, (fold.absent, -1))[0]
            step = fold.step(before, event)
            if step.ignored is not None:
                met.counts[f"{fold.topic}: {step.ignored.value} {event.type} while {before.kind}"] += 1
                continue
            met.counts[f"{fold.topic}: {before.kind} -> {step.state.kind} by {event.type}"] += 1
            states[key] = (step.state, record.offset)
            for output in step.outputs:
                found.outputs[output.id] = output
            if isinstance(step.state, job.Active | job.BackingOff):
                found.retries[key] = max(found.retries.get(key, 0), step.state.attempts.accounted())
        found.rows[log.partition] = {
            key: encode_row(fold.encode_state(state), offset)
            for key, (state, offset) in states.items()
            if state != fold.absent
        }
        found.states.update({key: state for key, (state, _) in states.items()})
    return found


class Checks:
    def __init__(self, system: System, met: Met) -> None:
        self._system = system
        self._broker = system.broker
        self._met = met
        self._jobs = refold(system, JOB_FOLD, met)
        self._responses = refold(system, RESPONSE_FOLD, met)
        self.violations: list[Violation] = []

    def _fail(self, invariant: str, detail: str) -> None:
        self.violations.append(Violation(invariant, detail))

    def run(self) -> list[Violation]:
        self._defects()
        self._results()
        self._adopted()
        self._creates()
        self.violations += [Violation("hedge", detail) for detail in judge_hedges(self._broker, self._met)]
        self._tables()
        self._nothing_stuck()
        self._nothing_skipped()
        self._outputs()
        if self._system.chaos.random.random() < READ_MODELS_SHARE or self._system.wrong.rows_unguarded:
            self._read_model()
        return self.violations

    def _defects(self) -> None:
        for defect in self._system.chaos.defects:
            self._fail("defect", defect)

    def _results(self) -> None:
        """I1 and I2."""
        counts: Counter[str] = Counter()
        for log in self._broker.results:
            counts.update(job_id for _, job_id, _ in log.records)
        for job_id in self._system.upstream.acknowledged:
            if not counts[job_id]:
                self._fail("I1", f"{job_id} was acknowledged and has no result")
        for job_id, count in counts.items():
            if count > 1:
                self._fail("I2", f"{job_id} has {count} results")

    def _adopted(self) -> None:
        """I9: a job that adopted a response of another job got no part of it."""
        for log in self._broker.results:
            for _, job_id, value in log.records:
                if not job_id.startswith("adopted_"):
                    continue
                found = decode(RESULT, value)
                named = (brief.response_id or "" for brief in found.attempts if found.response is not None)
                made = [self._system.provider.responses.get(response_id) for response_id in named]
                others = [response.job_id for response in made if response is not None and response.job_id]
                if others:
                    self._fail("I9", f"{job_id} got the end of a response of {others}")

    def _creates(self) -> None:
        """I3."""
        for job_id in self._system.provider.ungranted:
            self._fail("I3", f"{job_id} was created, and its grant was not in the log")
        ledger = self._system.provider.ledger
        commands = {output.id for output in self._jobs.outputs.values() if output.topic == "submissions"}
        attempts = Counter((job_id, attempt) for job_id, attempt, _ in ledger)
        for (job_id, attempt), count in attempts.items():
            if count > 1:
                self._fail("I3", f"attempt {attempt} of {job_id} was created {count} times")
            if f"{job_id}/{attempt}/create" not in commands:
                self._fail("I3", f"attempt {attempt} of {job_id} was created without a command of the refold")
        for job_id, count in Counter(job_id for job_id, _, _ in ledger).items():
            granted = self._jobs.retries.get(job_id.encode(), 0)
            if count > granted:
                self._fail("I3", f"{job_id} was accepted {count} times, and {granted} were granted")

    def _tables(self) -> None:
        """I4: the live table, the refold, and the table rebuilt from the changelog."""
        for fold, again in ((JOB_FOLD, self._jobs), (RESPONSE_FOLD, self._responses)):
            for partition in range(self._broker.partitions):
                log = self._broker.logs[f"{fold.topic}-changelog", partition]
                for how, made in (("", rebuilt), ("compacted ", compacted)):
                    self._same(f"{how}changelog of {fold.topic} {partition}", made(log.records), again.rows[partition])
        for name, worker in self._system.workers.items():
            for parts, again in ((worker.jobs, self._jobs), (worker.responses, self._responses)):
                for partition in parts.rows.partitions():
                    live = dict(parts.rows.items(partition))
                    self._same(f"{name}'s {parts.fold.topic} {partition}", live, again.rows[partition])

    def _same(self, what: str, found: dict[Any, Any], expected: dict[bytes, bytes]) -> None:
        if found == expected:
            return
        keys = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        first = keys[0]
        self._fail(
            "I4", f"{what} is not the refold: {len(keys)} rows, first {first!r}: "
            f"{_short(found.get(first))} where {_short(expected.get(first))} should be",
        )  # fmt: skip

    def _nothing_stuck(self) -> None:
        """I5."""
        now_ms = self._system.now_ms()
        for key, state in self._jobs.states.items():
            if isinstance(state, job.Waiting | job.Active | job.BackingOff):
                over_ms = now_ms - state.spec.deadline_at_ms
                if over_ms < BOUND_S * 1000 and key.decode() not in self._system.upstream.acknowledged:
                    continue  # A refused submission may be in the log: its end is not promised.
                self._fail("I5", f"{key.decode()} is {state.kind}, {over_ms} ms past its deadline")
        owned: dict[tuple[str, int], str] = {}
        for name, worker in self._system.workers.items():
            for parts in (worker.jobs, worker.responses):
                for partition in parts.rows.partitions():
                    place = (parts.fold.topic, partition)
                    if place in owned:
                        self._fail("ownership", f"{place} is {owned[place]}'s and {name}'s")
                    owned[place] = name
                    self._index_is_whole(name, parts, partition, now_ms)
        if len(owned) != 2 * self._broker.partitions:
            self._fail("ownership", f"{len(owned)} partitions of tables are owned")

    def _index_is_whole(self, name: str, parts: Any, partition: int, now_ms: int) -> None:
        """Each row's due time is in the index of its owner, unless its timer is on its way into the log."""
        for key, row in parts.rows.items(partition):
            due_ms = parts.fold.due_ms(parts.fold.decode_state(row.partition(b" ")[2]))
            if due_ms is None:
                self._fail("I5", f"{key!r} of {parts.fold.topic} has no next due time")
            elif not parts.index.knows(Due(due_ms, key, partition)) and due_ms > now_ms + 5_000:
                self._fail("I5", f"{name} does not know when {key!r} of {parts.fold.topic} is due")
                return

    def _nothing_skipped(self) -> None:
        committed = self._broker.groups["worker"].committed
        handled = self._system.handled
        for topic in FOLD_TOPICS:
            for log in self._broker.of_topic(topic):
                end = committed.get((topic, log.partition), 0)
                if log.records and end < log.end:
                    self._fail("skipped", f"{topic} {log.partition} is committed to {end} of {log.end}")
                for offset in log.offsets:
                    if offset < end and (topic, log.partition, offset) not in handled:
                        self._fail("skipped", f"{topic} {log.partition}@{offset} is committed, and was not processed")
                        break
        self._no_poll_skipped()
        self._every_poison_is_a_dead_letter()

    def _no_poll_skipped(self) -> None:
        """Each poll below the caller's offset has made a fact, or a later call for the same response has."""
        facts: set[str] = set()
        told_ms: dict[bytes | None, int] = {}
        for log in self._broker.of_topic("responses"):
            for record in log.records:
                if record.message_id.endswith(("/observed", "/failed")):
                    facts.add(record.message_id)
                    told_ms[record.key] = max(told_ms.get(record.key, 0), record.timestamp_ms)
        committed = self._broker.groups["poller"].committed
        for log in self._broker.of_topic("polls"):
            end = committed.get(("polls", log.partition), 0)
            for record in log.records:
                if record.offset >= end or not record.message_id:
                    continue
                told = {f"{record.message_id}/observed", f"{record.message_id}/failed"} & facts
                state = self._responses.states.get(record.key or b"")
                if record.message_id.endswith("/cancel") and isinstance(
                    state, response.RunningResponse | response.Ended
                ):
                    continue  # It may have expired: its row's timer polls again, or nothing is left to cancel.
                if not told and told_ms.get(record.key, -1) < record.timestamp_ms - SKEW_MS:
                    self._fail("skipped", f"poll {record.message_id} is committed and made no fact")
                    return

    def _every_poison_is_a_dead_letter(self) -> None:
        letters = {record.message_id for log in self._broker.of_topic("dead-letters") for record in log.records}
        if len(letters) < self._system.upstream.poisons:
            self._fail("skipped", f"{self._system.upstream.poisons} poisons, {len(letters)} dead letters")

    def _outputs(self) -> None:
        """The outputs of a refold equal the records on the topics; results byte for byte."""
        outputs = self._jobs.outputs | self._responses.outputs
        for topic in ("submissions", "polls"):
            records = [record for log in self._broker.of_topic(topic) for record in log.records]
            ids = {record.message_id for record in records} - {""}
            early = {record.message_id for record in records if EARLY_MARK in (record.value or b"")}
            expected = {output.id for output in outputs.values() if output.topic == topic}
            # What was written beside a grant that did not follow is no output, and `_creates` shows that none is made.
            for wrong, what in ((ids - early - expected, "is not the refold's"), (expected - ids, "is missing")):
                if wrong:
                    self._fail("I4", f"{min(wrong)} on {topic} {what}")
        for log in self._broker.results:
            for _, job_id, value in log.records:
                output = outputs.get(f"{job_id}/result")
                if not isinstance(output, JobResult) or encode(output) != value:
                    self._fail("I4", f"the result of {job_id} is not the refold's")
                    return

    def _read_model(self) -> None:
        """I6: rows = fold of `jobs` and `results` under any faults, and each row ended with its result."""
        chaos = self._system.chaos
        model = ReadModel(chaos.random, self._broker, self._met, unguarded=self._system.wrong.rows_unguarded)
        clean = ReadModel(_Never(), self._broker, self._met, unguarded=False)
        try:
            for one in (clean, model):
                one.run()
            if model.rows() != clean.rows():
                self._fail("I6", f"{sum(a != b for a, b in zip(model.rows(), clean.rows(), strict=False))} rows differ")
            if model.timeline() != clean.timeline():
                self._fail("I6", "the timelines differ")
            if model.offsets() != clean.offsets():
                self._fail("I6", "the offsets differ")
            if model.repeated:
                self._fail("I2", f"the projection saw a second result of {model.repeated[0]}")
            self._rows_are_the_fold(model)
        finally:
            model.close()
            clean.close()

    def _rows_are_the_fold(self, model: ReadModel) -> None:
        results = {job_id: value for log in self._broker.results for _, job_id, value in log.records}
        found = {values[0]: row_from(values) for values in model.rows()}
        for job_id, row in found.items():
            state = self._jobs.states.get(job_id.encode())
            if row.result != results.get(job_id):
                self._fail("I6", f"the result of {job_id} is not the one on the topic")
            elif row.terminal != isinstance(state, job.Finished | job.Absent):
                self._fail("I6", f"{job_id} is {row.status}, and its fold {state and state.kind}")
        if missing := results.keys() - found.keys():
            self._fail("I6", f"{min(missing)} has a result and no row")


class _Never(Random):
    """A projection without faults."""

    def random(self) -> float:
        return 1.0

    def choice(self, seq: Any) -> Any:
        return seq[-1]


def _short(row: bytes | None) -> str:
    return "nothing" if row is None else repr(row)


__all__ = ["Checks", "Violation", "refold"]
