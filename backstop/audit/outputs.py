"""Compares the outputs that the refold expects on other topics with the records there. Pure.

Results are compared by their bytes, one per finished job. Commands and facts for the other log are compared by id: a
crash repeats them under the same id, which is counted and is no violation.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import orjson

from backstop.audit.differences import Check, Difference
from backstop.audit.refold import Refolded
from backstop.runtime.records import Record
from schemas.base import Message
from schemas.codec import encode, sha256_hex
from schemas.results import JobResult

WATCHED: Mapping[str, Check] = {
    "results": "results", "submissions": "submissions", "polls": "polls", "jobs": "jobs", "responses": "responses",
    "dead-letters": "dead-letters",
}  # fmt: skip
"""Topics on which outputs are expected, with the name of the check."""


_OUTPUTS_ON_LOGS = {
    "jobs": (
        b'"type":"attempt_settled"',
        b'"type":"attempt_accepted"',
        b'"type":"usage_booked"',
        b'"type":"adoption_refused"',
        b'"type":"hedge_permitted"',
    ),
    "responses": (
        b'"type":"response_claimed"',
        b'"type":"response_released"',
        b'"type":"response_deadline_moved"',
    ),
}
"""The facts of a log that the folds write, found by their bytes, which are canonical JSON. This is
cheap; a false hit (a body that quotes the text) only adds an id that nothing expects.
"""


@dataclass(slots=True)
class _Ids:
    """Messages of one topic, by id."""

    expected: dict[str, int] = field(default_factory=dict)
    """Id → the time of its cause. An id is removed when it is found."""
    matched: set[str] = field(default_factory=set)
    unasked: set[str] = field(default_factory=set)
    """Found but not (yet) expected: the log of its cause was read less far, or is truncated by retention."""
    repeats: Counter[str] = field(default_factory=Counter)

    def expect(self, message_id: str, at_ms: int) -> None:
        if message_id in self.unasked:
            self.unasked.discard(message_id)
            self.matched.add(message_id)
        elif message_id not in self.matched:
            self.expected[message_id] = at_ms

    def find(self, message_id: str) -> None:
        if message_id in self.matched or message_id in self.unasked:
            self.repeats[message_id] += 1
        elif self.expected.pop(message_id, None) is not None:
            self.matched.add(message_id)
        else:
            self.unasked.add(message_id)


@dataclass(slots=True)
class _Results:
    """For one job: digests of the bytes, in order."""

    expected: list[tuple[str, int]] = field(default_factory=list)
    """Each with the time of the end."""
    found: list[str] = field(default_factory=list)
    submitted_at_ms: int = 0
    """From the last record found."""
    erased: bool = False
    partition: int | None = None


class Outputs:
    """Takes the refold's outputs and the topics' records, in any order between the two."""

    def __init__(self) -> None:
        self._ids: dict[str, _Ids] = {topic: _Ids() for topic in WATCHED if topic != "results"}
        self._results: dict[str, _Results] = {}
        self._kept_from_ms: dict[str, int] = {}
        self.unreadable: Counter[str] = Counter()
        self.unfounded = 0
        """Outputs of keys whose history is not whole; they are not expected."""
        self._unjudged: dict[str, int] = {}

    def expect(self, refolded: Refolded) -> None:
        """Expect the outputs of a refolded batch, and its dead
        letters, whose id is the place of the original record.
        """
        for output in refolded.outputs:
            self._expect(output)
        for record in refolded.poisons:
            self._ids["dead-letters"].expect(record.place, record.timestamp_ms)
        self.unfounded += refolded.unfounded

    def find(self, record: Record, prefix: str = "") -> None:
        """Take a record of a watched topic."""
        if record.topic == "results":
            self._find_result(record)
            return
        if not _may_be_output(record):
            return
        message_id = _id_of(record.value)
        if message_id is None:
            self.unreadable[record.topic] += 1
            return
        if record.topic == "dead-letters":
            message_id = message_id.removeprefix(prefix)
        self._ids[record.topic].find(message_id)

    def begins_at(self, topic: str, first_kept_ms: int) -> None:
        """Retention has removed records of `topic`: outputs made up to this time are no longer expected."""
        self._kept_from_ms[topic] = max(self._kept_from_ms.get(topic, 0), first_kept_ms)

    def differences(self, whole_from_ms: int = 0) -> Iterator[Difference]:
        """All deviations. `whole_from_ms`: the logs are whole from this time on (see `PartitionRefold`)."""
        self._unjudged = {}
        for topic, ids in self._ids.items():
            for message_id, at_ms in ids.expected.items():
                if at_ms <= self._kept_from_ms.get(topic, -1):
                    self._unjudged[topic] = self._unjudged.get(topic, 0) + 1
                    continue
                yield Difference(WATCHED[topic], "missing", None, message_id, "a record with this id", "none")
        for job_id, results in self._results.items():
            found = self._judge(job_id, results, whole_from_ms)
            if found is not None:
                yield found

    @property
    def not_judged(self) -> Mapping[str, int]:
        """By topic: outputs so old that retention may have removed them, as of the last call of `differences`."""
        return self._unjudged

    def counts(self) -> dict[str, dict[str, int]]:
        """By topic: outputs expected and found (`matched`), and
        repeats, which crashes cause and which change nothing.
        """
        counts = {
            topic: {"matched": len(ids.matched), "repeats": ids.repeats.total()} for topic, ids in self._ids.items()
        }
        matched = sum(1 for results in self._results.values() if results.expected and results.found)
        repeats = sum(max(0, len(results.found) - 1) for results in self._results.values())
        return {"results": {"matched": matched, "repeats": repeats}, **counts}

    def _expect(self, output: Message) -> None:
        if isinstance(output, JobResult):
            of_job = self._results.setdefault(output.job_id, _Results())
            of_job.expected.append((sha256_hex(encode(output)), output.at_ms))
        else:
            self._ids[output.topic].expect(output.id, output.at_ms)

    def _find_result(self, record: Record) -> None:
        of_job = self._results.setdefault((record.key or b"").decode(errors="replace"), _Results())
        of_job.partition = record.partition
        if record.value is None:
            of_job.erased = True
        else:
            of_job.found.append(sha256_hex(record.value))
            of_job.submitted_at_ms = _submitted_at_ms(record.value)

    def _judge(self, job_id: str, results: _Results, whole_from_ms: int) -> Difference | None:
        """Checks I2, and that the bytes equal the refold's. None also
        if retention prevents a judgement, which is counted.
        """
        wanted, found = [sha for sha, _ in results.expected], results.found
        if not wanted or not found:
            return self._judge_one_side(job_id, results, whole_from_ms)
        if len(found) > len(wanted):
            return _result("duplicate", job_id, results, f"{len(wanted)} record", f"{len(found)}: {_shas(found)}")
        if not set(found) <= set(wanted):
            return _result("differs", job_id, results, _shas(wanted), _shas(found))
        return None

    def _judge_one_side(self, job_id: str, results: _Results, whole_from_ms: int) -> Difference | None:
        kept_from_ms = self._kept_from_ms.get("results", -1)
        removed = (
            results.expected[-1][1] <= kept_from_ms if results.expected else results.submitted_at_ms < whole_from_ms
        )
        if results.erased or removed:
            self._skip("results")
            return None
        if results.expected:
            return _result("missing", job_id, results, _shas([sha for sha, _ in results.expected]), "none")
        return _result("extra", job_id, results, "none: this job has no end in the log", _shas(results.found))

    def _skip(self, topic: str) -> None:
        self._unjudged[topic] = self._unjudged.get(topic, 0) + 1


def _result(kind: str, job_id: str, results: _Results, expected: str, found: str) -> Difference:
    return Difference("results", kind, results.partition, job_id, expected, found)  # type: ignore[arg-type]  # a Kind


def _shas(digests: list[str]) -> str:
    return "sha256 " + ", ".join(digest[:12] for digest in digests[:4])


def _submitted_at_ms(value: bytes) -> int:
    try:
        found = orjson.loads(value)["timings"]["submitted_at_ms"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return sys.maxsize  # not a result, so it is judged whatever its time
    return found if isinstance(found, int) else sys.maxsize


def _may_be_output(record: Record) -> bool:
    marks = _OUTPUTS_ON_LOGS.get(record.topic)
    return marks is None or any(mark in (record.value or b"") for mark in marks)


def _id_of(value: bytes | None) -> str | None:
    try:
        found = orjson.loads(value or b"").get("id")
    except (orjson.JSONDecodeError, AttributeError):
        return None
    return found if isinstance(found, str) else None
