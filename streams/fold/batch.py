"""Folds records of one partition in memory. The shell, the audit and the simulation share this code. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from schemas.base import Message
from schemas.codec import PoisonError, decode, refused
from schemas.jobs import JOB_FACT, JobSubmitted
from schemas.responses import RESPONSE_FACT
from streams.fold import job, response
from streams.fold.rows import (
    decode_job_state,
    decode_response_state,
    decode_row,
    encode_job_state,
    encode_response_state,
    encode_row,
)
from streams.fold.step import Ignored, Step

S = TypeVar("S")


class LogRecord(Protocol):
    """The fields of a Kafka record that the fold reads."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


R = TypeVar("R", bound=LogRecord)

_CONFLICT = PoisonError("conflict", "the job id belongs to another submission, which the log has before this one")
"""For a submission that changed nothing: its dead letter tells the sender's operator."""


@dataclass(frozen=True, slots=True)
class Fold(Generic[S]):
    """One of the two folds, with the format of its facts and rows."""

    name: str
    topic: str
    facts: TypeAdapter[Any]
    absent: S
    step: Callable[[S, Any], Step[S]]
    due_ms: Callable[[S], int | None]
    encode_state: Callable[[S], bytes]
    decode_state: Callable[[bytes], S]


JOB_FOLD: Fold[job.JobState] = Fold(
    name="job_fold", topic="jobs", facts=JOB_FACT, absent=job.Absent(), step=job.step, due_ms=job.due_ms,
    encode_state=encode_job_state, decode_state=decode_job_state,
)  # fmt: skip
RESPONSE_FOLD: Fold[response.ResponseState] = Fold(
    name="response_fold", topic="responses", facts=RESPONSE_FACT, absent=response.AbsentResponse(), step=response.step,
    due_ms=response.due_ms, encode_state=encode_response_state, decode_state=decode_response_state,
)  # fmt: skip


@dataclass(slots=True)
class Folded(Generic[R]):
    """The result of a batch. The caller must write `rows` only after every output was acknowledged."""

    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    """New rows by key; None deletes the key."""
    dues_ms: dict[bytes, int | None] = field(default_factory=dict)
    facts: list[tuple[bytes, Any]] = field(default_factory=list)
    """The facts that changed a state, in order, each with its key."""
    late: list[Any] = field(default_factory=list)
    """The facts that came after an end."""
    states: dict[bytes, Any] = field(default_factory=dict)
    """The state of each row of `rows`."""
    outputs: list[Message] = field(default_factory=list)
    poisons: list[tuple[R, PoisonError]] = field(default_factory=list)
    """Records that become dead letters: unusable ones, and submissions with the id of another submission."""
    ignored: Counter[str] = field(default_factory=Counter)
    taken: int = 0
    repeats: int = 0
    """Redelivered records, which were skipped: their offset is not above that of the row."""
    last_poisoned_run: int = 0
    """How many consecutive records at the end of the batch were poison."""


def fold_batch(fold: Fold[S], read_row: Callable[[bytes], bytes | None], records: Iterable[R]) -> Folded[R]:
    """Fold `records` (of one partition, in offset order) onto the rows that `read_row` returns.

    Total over the bytes of the records: a record that can't be parsed or folded becomes a poison, and the fold goes on.
    """
    folded: Folded[R] = Folded()
    states: dict[bytes, tuple[S, int]] = {}
    for record in records:
        try:
            event = _parse(fold, record)
            key = event.key.encode()
            state, offset = states[key] if key in states else _load(fold, read_row(key))
            if record.offset <= offset:
                folded.repeats += 1
                continue
            result = _step(fold, state, event)
        except PoisonError as error:
            folded.poisons.append((record, error))
            folded.last_poisoned_run += 1
            continue
        folded.last_poisoned_run = 0
        folded.taken += 1
        if result.ignored is not None:
            folded.ignored[result.ignored.value] += 1
            if result.ignored is Ignored.LATE:
                folded.late.append(event)
            if result.ignored is Ignored.CONFLICT and isinstance(event, JobSubmitted):
                folded.poisons.append((record, _CONFLICT))
            continue
        states[key] = (result.state, record.offset)
        folded.facts.append((key, event))
        folded.outputs.extend(result.outputs)
    for key, (state, offset) in states.items():
        if offset < 0 or key in folded.rows:
            continue
        folded.rows[key] = None if state == fold.absent else encode_row(fold.encode_state(state), offset)
        folded.dues_ms[key] = fold.due_ms(state)
        folded.states[key] = state
    return folded


def _parse(fold: Fold[Any], record: LogRecord) -> Any:
    event = decode(fold.facts, record.value)
    if record.key != event.key.encode():
        raise PoisonError("wrong_key", f"the record's key is not the {fold.topic} key that its value names")
    return event


def _load(fold: Fold[S], row: bytes | None) -> tuple[S, int]:
    if row is None:
        return fold.absent, -1
    data, offset = decode_row(row)
    try:
        return fold.decode_state(data), offset
    except ValidationError as error:
        # A newer release wrote the row. The row stays, and records of its key become dead letters.
        reason = refused(error)
        raise PoisonError(reason.reason, f"the row of this key: {reason.detail}") from None


def _step(fold: Fold[S], state: S, event: Any) -> Step[S]:
    try:
        return fold.step(state, event)
    except Exception as error:  # The folds are total. If one has a bug, a single record must not stop the partition.
        raise PoisonError("fold_failed", f"{type(error).__name__} in the {fold.name}") from error
