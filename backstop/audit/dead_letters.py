"""The dead letters of a topic, each with the decisions about it, and the records that a retry would publish.

A dead letter's id is the place of the original record. A redelivery, or a second component that can't process the
record, gives the same id: here these are one dead letter.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from backstop.runtime.kafka.dead_letters import VALUE_BYTES_MAX
from backstop.runtime.records import Record
from schemas.codec import PoisonError, decode
from schemas.commands import POLL_COMMAND, SUBMISSION
from schemas.dead_letters import DEAD_LETTER_RECORD, DeadLetter, DeadLetterResolved
from schemas.jobs import JOB_FACT
from schemas.requests import REQUEST
from schemas.responses import RESPONSE_FACT
from schemas.results import RESULT

RETRY_HEADER = "backstop_retry_of"

RETRIED_TO: Mapping[str, TypeAdapter[Any]] = {
    "requests": REQUEST, "jobs": JOB_FACT, "responses": RESPONSE_FACT, "submissions": SUBMISSION, "polls": POLL_COMMAND,
}  # fmt: skip
"""Topics that a record may be republished to. Not `results`: its
one writer is fenced and never writes a record twice.
"""

_READ_BY: Mapping[str, TypeAdapter[Any]] = {**RETRIED_TO, "results": RESULT}


@dataclass(slots=True)
class DeadLetterEntry:
    """One dead letter, with all decisions about it."""

    letter: DeadLetter
    place: str
    components: list[str] = field(default_factory=list)
    """The components that could not process it, in order."""
    decisions: list[DeadLetterResolved] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.letter.id

    @property
    def open(self) -> bool:
        return not self.decisions

    @property
    def status(self) -> str:
        return "open" if self.open else self.decisions[-1].resolution

    def origin_topic(self, prefix: str) -> str | None:
        """The logical name; None if its topic is not under the
        prefix. A tenant's `requests.acme` counts as `requests`.
        """
        origin = self.letter.origin
        if origin is None or not origin.topic.startswith(prefix):
            return None
        name = origin.topic.removeprefix(prefix)
        return "requests" if name.startswith("requests.") else name


@dataclass(frozen=True, slots=True)
class DeadLetterEntries:
    letters: tuple[DeadLetterEntry, ...]
    """Ordered by time."""
    unreadable: int
    """Records on the topic that are neither dead letter nor decision."""


def collect(records: Iterable[Record]) -> DeadLetterEntries:
    """Take records of `dead-letters`; each partition must be in offset order."""
    found: dict[str, DeadLetterEntry] = {}
    decisions: list[DeadLetterResolved] = []
    unreadable = 0
    for record in records:
        try:
            message = decode(DEAD_LETTER_RECORD, record.value)
        except PoisonError:
            unreadable += 1
            continue
        if isinstance(message, DeadLetterResolved):
            decisions.append(message)
            continue
        letter = found.setdefault(message.id, DeadLetterEntry(message, record.place))
        if message.component not in letter.components:
            letter.components.append(message.component)
    for decision in decisions:
        if decision.dead_letter_id in found:
            found[decision.dead_letter_id].decisions.append(decision)
    return DeadLetterEntries(
        tuple(sorted(found.values(), key=lambda letter: (letter.letter.at_ms, letter.id))), unreadable
    )


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection of dead letters; None means any."""

    topic: str | None = None
    """The logical topic of origin."""
    reason: str | None = None
    since_ms: int | None = None
    resolved: bool = False
    """Include those with a decision."""

    def takes(self, letter: DeadLetterEntry, prefix: str) -> bool:
        return (
            (letter.open or self.resolved)
            and self.reason in (None, letter.letter.reason)
            and self.topic in (None, letter.origin_topic(prefix))
            and (self.since_ms is None or letter.letter.at_ms >= self.since_ms)
        )


@dataclass(frozen=True, slots=True)
class Raw:
    """The original record, as far as the dead letter keeps it."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    truncated: bool
    """The value was longer than a dead letter keeps."""


def raw_record(letter: DeadLetter) -> Raw:
    value = _bytes(letter.value_base64)
    headers = tuple((name, _bytes(coded)) for name, coded in letter.headers)
    return Raw(_bytes(letter.key_base64), value, headers, truncated=value is not None and len(value) >= VALUE_BYTES_MAX)


def reads_now(letter: DeadLetterEntry, prefix: str) -> str:
    """Whether this release can parse the record: `yes`, or why not."""
    adapter = _READ_BY.get(letter.origin_topic(prefix) or "")
    if adapter is None:
        return "it came from no topic"
    try:
        message = decode(adapter, raw_record(letter.letter).value)
    except PoisonError as error:
        return f"no: {error.reason}: {error.detail}"
    key = getattr(message, "key", None)
    if key is not None and raw_record(letter.letter).key != key.encode():
        return "no: wrong_key: the record's key is not the one that its value names"
    return "yes"


@dataclass(frozen=True, slots=True)
class Republish:
    """The record that a retry publishes. `topic` is the full name."""

    letter: DeadLetterEntry
    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def plan_retry(
    letters: Sequence[DeadLetterEntry], prefix: str
) -> tuple[list[Republish], list[tuple[DeadLetterEntry, str]]]:
    """The records to publish, and the dead letters that can't be retried, each with the reason."""
    can: list[Republish] = []
    cannot: list[tuple[DeadLetterEntry, str]] = []
    for letter in letters:
        topic, raw = letter.origin_topic(prefix), raw_record(letter.letter)
        origin = letter.letter.origin
        if origin is None or topic not in RETRIED_TO:
            why = "it came from no topic" if origin is None else f"nothing is put back on {topic}"
            cannot.append((letter, why))
        elif letter.letter.reason in ("unreadable", "too_large") and raw.value is None:
            cannot.append((letter, "its bytes could not be read, and the dead letter does not hold them"))
        elif raw.truncated:
            cannot.append((letter, f"its value was truncated to {VALUE_BYTES_MAX} bytes in the dead letter"))
        else:
            headers = tuple(header for header in raw.headers if header[0] != RETRY_HEADER)
            retry = (*headers, (RETRY_HEADER, letter.id.encode()))
            can.append(Republish(letter, origin.topic, raw.key, raw.value, retry))
    return can, cannot


def resolved(
    letter: DeadLetterEntry, resolution: Any, by: str, why: str, now_ms: int, asked_by: str | None = None
) -> DeadLetterResolved:
    """The record of a decision."""
    return DeadLetterResolved(
        id=f"{letter.id}/resolved/{len(letter.decisions) + 1}"[:512],
        at_ms=now_ms,
        dead_letter_id=letter.id,
        resolution=resolution,
        by=by[:200],
        asked_by=asked_by,
        why=why[:500],
        record_key=letter.letter.record_key,
    )


def readable(data: bytes | None) -> Any:
    """Bytes for people: text if they are UTF-8, else base64 in an object that says so."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _bytes(coded: str | None) -> bytes | None:
    try:
        return None if coded is None else base64.b64decode(coded, validate=True)
    except ValueError:  # also where the text is not ASCII
        return None
