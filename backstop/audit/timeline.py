"""The history of a job or a response from the topics alone, in order, and its state as of a time. Pure.

A summary holds only the fields named here: no prompt, output or provider's text (an error's message may quote the
prompt).
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from backstop.audit.refold import FOLDS
from backstop.runtime.records import Record
from schemas.base import Frozen, Message
from schemas.codec import PoisonError, canonical, decode, sha256_hex
from schemas.commands import POLL_COMMAND, SUBMISSION
from schemas.jobs import JOB_FACT
from schemas.responses import RESPONSE_FACT
from schemas.results import RESULT, JobResult
from streams.fold import job, response

TOPICS: tuple[str, ...] = ("jobs", "responses", "submissions", "polls", "results")
"""Causes before effects, for records of the same time."""

_ADAPTERS: Mapping[str, TypeAdapter[Any]] = {
    "jobs": JOB_FACT, "responses": RESPONSE_FACT, "submissions": SUBMISSION, "polls": POLL_COMMAND, "results": RESULT,
}  # fmt: skip

SHOWN: Mapping[str, tuple[str, ...]] = {
    "job_submitted": ("tenant", "ingress", "asked_by", "model", "deadline_at_ms", "session_id", "retry"),
    "response_adopted": ("tenant", "ingress", "asked_by", "response_id", "deadline_at_ms", "session_id"),
    "adoption_refused": ("response_id",),
    "job_refused": ("tenant", "code"),
    "cancel_requested": ("tenant", "ingress", "asked_by"),
    "job_erased": ("tenant", "erasure_id", "why", "by"),
    "job_changed": ("tenant", "asked_by", "priority", "deadline_at_ms", "why", "by"),
    "attempt_accepted": ("attempt", "response_id", "status", "adopted", "poll_at_ms", "control", "provider_request_id"),
    "attempt_rejected": ("attempt", "cause", "code", "http_status", "wait_ms"),
    "attempt_unknown": ("attempt", "reason"),
    "attempt_settled": ("attempt", "response_id", "status", "code", "found_by", "polls"),
    "hedge_permitted": ("attempt", "response_id"),
    "usage_booked": ("attempt", "response_id", "estimated"),
    "job_admitted": ("reserved_tokens", "waited_for"),
    "job_found_too_late": ("needs_ms",),
    "fallback_taken": ("number", "closed_ms", "code"),
    "timer_fired": ("due_ms", "next_poll_at_ms", "poll_basis"),
    "webhook_received": ("webhook_id", "event_type", "sent_at_ms", "key_id"),
    "response_claimed": ("job_id", "attempt", "poll_at_ms", "released", "made_elsewhere"),
    "response_released": ("job_id",),
    "response_deadline_moved": ("job_id", "last_poll_at_ms"),
    "response_observed": ("outcome", "raw_status", "code", "next_poll_at_ms", "poll_basis"),
    "poll_failed": ("reason", "next_poll_at_ms", "poll_basis"),
    "create_response": ("attempt", "model", "not_after_ms"),
    "retrieve_response": ("reason", "polls"),
    "cancel_response": (),
    "job_result": ("outcome", "found_by", "rejections"),
}
"""The fields of a summary, by type. None may hold text of a prompt, an output or the provider."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the history. Times are Unix milliseconds."""

    at_ms: int
    topic: str
    partition: int
    offset: int
    key: str
    kind: str
    """The message's type; `unreadable` if the record can't be parsed, `erased` for a tombstone."""
    id: str
    summary: Mapping[str, Any]
    effect: str | None
    """For a fact: the status after it, or why it was ignored."""

    @property
    def place(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def timeline(records: Iterable[Record]) -> list[Entry]:
    """The entries of these records (of any keys), ordered by time; records of one partition keep their offset order."""
    ordered = in_order(records)
    states: dict[tuple[str, bytes], Any] = {}
    return [_entry(record, states) for record in ordered]


def in_order(records: Iterable[Record]) -> list[Record]:
    """Ordered by time, causes before effects; a clock that steps back does not reorder records of one partition."""
    newest_ms: dict[tuple[str, int], int] = {}
    keyed = []
    for record in sorted(records, key=lambda r: (r.topic, r.partition, r.offset)):
        at = (record.topic, record.partition)
        newest_ms[at] = max(newest_ms.get(at, 0), record.timestamp_ms)
        keyed.append(((newest_ms[at], TOPICS.index(record.topic), record.partition, record.offset), record))
    return [record for _, record in sorted(keyed, key=lambda pair: pair[0])]


def response_ids(records: Iterable[Record]) -> list[str]:
    """The responses that the job's facts name, in order, without repeats."""
    found: dict[str, None] = {}
    for record in records:
        fact = _parsed(record)
        response_id = getattr(fact, "response_id", None) if record.topic == "jobs" else None
        if isinstance(response_id, str):
            found[response_id] = None
    return list(found)


def job_id(records: Iterable[Record]) -> str | None:
    """The job that claimed the response of these facts; else the job that the response's metadata names."""
    named: str | None = None
    for record in records:
        fact = _parsed(record)
        found = getattr(fact, "job_id", None) if record.topic == "responses" else None
        if isinstance(found, str):
            if getattr(fact, "type", None) == "response_claimed":
                return found
            named = found
    return named


@dataclass(frozen=True, slots=True)
class StateAt:
    """The state of one key after its last fact up to a time."""

    topic: str
    key: str
    status: str
    due_ms: int | None
    facts: int
    last_place: str
    last_at_ms: int
    state: Any
    """As its row stores it, with bodies replaced by their SHA-256."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def states_at(records: Iterable[Record], at_ms: int) -> list[StateAt]:
    """The states of all keys of both logs among `records` as of `at_ms`; keys without a fact by then are left out."""
    last: dict[tuple[str, bytes], tuple[Any, int, Record]] = {}
    for record in in_order(record for record in records if record.topic in FOLDS):
        if record.timestamp_ms > at_ms:
            continue
        fact = _parsed(record)
        if fact is None:
            continue
        fold, key = FOLDS[record.topic], (record.topic, record.key or b"")
        state, count, _ = last.get(key, (fold.absent, 0, record))
        last[key] = (fold.step(state, fact).state, count + 1, record)
    return [_state_at(key, *found) for key, found in last.items()]


def without_bodies(value: Any) -> Any:
    """A JSON value with every body and message replaced by its digest and size."""
    if isinstance(value, Mapping):
        return {
            name: _digested(inner) if name in ("value", "message") and inner else without_bodies(inner)
            for name, inner in value.items()
        }
    return [without_bodies(inner) for inner in value] if isinstance(value, list) else value


def _digested(value: Any) -> dict[str, Any]:
    data = canonical(value)
    return {"sha256": sha256_hex(data), "size_bytes": len(data)}


def _state_at(key: tuple[str, bytes], state: Any, facts: int, record: Record) -> StateAt:
    fold = FOLDS[key[0]]
    row = TypeAdapter(dict[str, Any]).validate_json(fold.encode_state(state))
    return StateAt(
        topic=key[0],
        key=key[1].decode(errors="replace"),
        status=_status(state),
        due_ms=fold.due_ms(state),
        facts=facts,
        last_place=record.place,
        last_at_ms=record.timestamp_ms,
        state=without_bodies(row),
    )


def _entry(record: Record, states: dict[tuple[str, bytes], Any]) -> Entry:
    message = _parsed(record)
    at_ms = record.timestamp_ms if message is None else message.at_ms
    kind = getattr(message, "type", "erased" if record.value is None else "unreadable")
    return Entry(
        at_ms=at_ms,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=(record.key or b"").decode(errors="replace"),
        kind=kind,
        id="" if message is None else message.id,
        summary={} if message is None else summary(message),
        effect=_effect(record, message, states),
    )


def summary(message: Message) -> dict[str, Any]:
    """The type's fields from `SHOWN`; those without a value are left out."""
    fields = {name: getattr(message, name, None) for name in SHOWN[getattr(message, "type", "")]}
    if isinstance(message, JobResult):
        fields |= {"code": message.reason.code if message.reason else None, "attempts": len(message.attempts)}
    if isinstance(basis := fields.get("poll_basis"), Frozen):
        fields["poll_basis"] = basis.model_dump(mode="json")
    return {name: value for name, value in fields.items() if value not in (None, False, "")}


def _effect(record: Record, fact: Message | None, states: dict[tuple[str, bytes], Any]) -> str | None:
    if record.topic not in FOLDS or fact is None:
        return None
    fold, key = FOLDS[record.topic], (record.topic, record.key or b"")
    step = fold.step(states.get(key, fold.absent), fact)
    states[key] = step.state
    return f"ignored: {step.ignored.value}" if step.ignored is not None else _status(step.state)


def _status(state: Any) -> str:
    if isinstance(state, job.Finished):
        return f"finished: {state.outcome}"
    if isinstance(state, job.Absent | job.Waiting | job.Active | job.BackingOff):
        return job.status(state)
    assert isinstance(state, response.AbsentResponse | response.Unclaimed | response.RunningResponse | response.Ended)
    return f"ended: {state.status}" if isinstance(state, response.Ended) else state.kind


def _parsed(record: Record) -> Any:
    """None: a tombstone, or an unreadable record (which has a dead letter)."""
    try:
        message = decode(_ADAPTERS[record.topic], record.value)
    except PoisonError:
        return None
    return message if record.key == message.key.encode() else None
