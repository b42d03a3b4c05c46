"""The expected rows of the read model, refolded without the read model's own code (I6). Pure.

A row is a function of its job's facts up to the end, and of its first record on `results`. The two logs arrive in any
order. The read model states how far it has read each log: later facts are left out, so the comparison is exact while
the projection goes on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from backstop.audit.differences import Difference, FieldDifference, Kind
from backstop.runtime.records import Partition, Record
from schemas.codec import PoisonError, decode, encode, sha256_hex
from schemas.erasures import JobErased
from schemas.jobs import JOB_FACT
from schemas.results import RESULT, JobResult
from streams.fold.job import Absent, JobState, due_ms, status, step
from streams.fold.rows import encode_job_state


@dataclass(frozen=True, slots=True)
class ReadRow:
    """The part of a row that the logs determine; bodies by their SHA-256."""

    status: str
    version: int
    state_sha256: str
    result_sha256: str | None
    next_action_at_ms: int | None
    place: str
    """topic:partition:offset of the last record that changed the row."""


@dataclass(frozen=True, slots=True)
class ReadModel:
    """One snapshot of the read model: its rows, and each partition's next offset at that time."""

    offsets: Mapping[Partition, int]
    rows: Mapping[str, ReadRow]
    submitted_at_ms: Mapping[str, int]
    """By job id: decides whether a row can be judged when retention has truncated the log."""
    ended_before_ms: int = 0
    """Jobs that ended before this time may have been removed from the read model."""


@dataclass(slots=True)
class _Job:
    state: JobState
    version: int
    place: str
    ended: bool = False
    erased: bool = False
    settled: ReadRow | None = None
    ended_at_ms: int | None = None


class ReadRows:
    """The expected rows at the snapshot's offsets."""

    def __init__(self, offsets: Mapping[Partition, int]) -> None:
        self._offsets = offsets
        self._jobs: dict[str, _Job] = {}
        self._held: dict[str, tuple[Record, JobResult]] = {}

    def take(self, record: Record) -> None:
        """Take a record of `jobs` or `results`, in offset order per partition. Unreadable records change no row."""
        if record.offset >= self._offsets.get((record.topic, record.partition), 0):
            return
        if record.topic == "results" and record.value is None:
            return
        try:
            if record.topic == "jobs":
                self._fact(record)
            else:
                self._result(record)
        except PoisonError:
            return

    def row(self, job_id: str) -> ReadRow | None:
        job = self._jobs.get(job_id)
        if job is None or job.settled is not None:
            return job.settled if job else None
        seen = status(job.state)
        return ReadRow(
            status="finishing" if job.ended else seen,
            version=job.version,
            state_sha256=sha256_hex(encode_job_state(job.state)),
            result_sha256=None,
            next_action_at_ms=None if job.ended else due_ms(job.state),
            place=job.place,
        )

    def differences(self, model: ReadModel, whole_from_ms: int = 0) -> Iterator[Difference]:
        """Rows that deviate from the logs. If the log is truncated, only
        jobs submitted from `whole_from_ms` on are judged.
        """
        for job_id in sorted({*self._jobs, *model.rows}):
            expected, found = self.row(job_id), model.rows.get(job_id)
            if expected == found or (found is not None and model.submitted_at_ms[job_id] < whole_from_ms):
                continue
            if found is None and (whole_from_ms or self._has_left(job_id, model)):
                continue  # fewer rows: a rebuild from a truncated log, or removal of finished jobs
            kind: Kind = "missing" if found is None else "extra" if expected is None else "differs"
            yield Difference("read_model", kind, None, job_id, _text(expected), _text(found), _fields(expected, found))

    def _has_left(self, job_id: str, model: ReadModel) -> bool:
        ended_at_ms = self._jobs[job_id].ended_at_ms
        return ended_at_ms is not None and ended_at_ms < model.ended_before_ms

    def _fact(self, record: Record) -> None:
        fact = decode(JOB_FACT, record.value)
        if record.key != fact.key.encode():
            return
        job = self._jobs.get(fact.job_id)
        if job is not None and job.ended:
            if isinstance(fact, JobErased):
                self._erase(job, fact, record)
            return
        taken = step(Absent() if job is None else job.state, fact)
        if taken.ignored is not None:
            return
        job = _Job(taken.state, 1 if job is None else job.version + 1, record.place)
        job.ended = status(job.state) == "finished"
        self._jobs[fact.job_id] = job
        held = self._held.pop(fact.job_id, None) if job.ended else None
        if held is not None:
            self._settle(job, *held)

    def _result(self, record: Record) -> None:
        result = decode(RESULT, record.value)
        if record.key != result.key.encode():
            return
        job = self._jobs.get(result.job_id)
        if job is not None and job.ended:
            if job.settled is None:
                self._settle(job, record, result)
        else:
            self._held.setdefault(result.job_id, (record, result))

    def _erase(self, job: _Job, fact: JobErased, record: Record) -> None:
        """The row without content, once; whether the result was read before makes no difference."""
        if job.erased:
            return
        job.erased, job.ended_at_ms = True, fact.result.timings.finished_at_ms
        job.settled = ReadRow(
            status=fact.result.outcome,
            version=job.version + 2,
            state_sha256=sha256_hex(encode_job_state(job.state)),
            result_sha256=sha256_hex(encode(fact.result)),
            next_action_at_ms=None,
            place=record.place,
        )

    def _settle(self, job: _Job, record: Record, result: JobResult) -> None:
        assert record.value is not None
        job.ended_at_ms = result.timings.finished_at_ms
        job.settled = ReadRow(
            status=result.outcome,
            version=job.version + 1,
            state_sha256=sha256_hex(encode_job_state(job.state)),
            result_sha256=sha256_hex(record.value),
            next_action_at_ms=None,
            place=record.place,
        )


def _text(row: ReadRow | None) -> str:
    return "no row" if row is None else f"{row.status}, version {row.version}, at {row.place}"


def _fields(expected: ReadRow | None, found: ReadRow | None) -> tuple[FieldDifference, ...]:
    if expected is None or found is None:
        return ()
    pairs = [(field.name, getattr(expected, field.name), getattr(found, field.name)) for field in fields(ReadRow)]
    return tuple(FieldDifference(name, str(one), str(other)) for name, one, other in pairs if one != other)
