"""PURE: what a move to topics of another number of partitions copies, in which steps, and the tables' rows with the
offsets of the new logs.

Records keep key, value, headers, time and the order of their key. Each log is copied from all of its partitions
together, a slice of time after the other, so that the new log is nearly in the order of time, as retention needs.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from backstop.audit.refold import FOLDS
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.records import Partition, Record
from schemas.topics import TOPICS
from streams.fold.rows import decode_row, encode_row

LEFT: Final = frozenset({"clock", "partials", "lanes"})
"""Topics of minutes or hours, from which nothing is decided that must last."""
READ_BY: Final[Mapping[str, str]] = {
    "requests": "worker", "jobs": "worker", "responses": "worker", "submissions": "submitter", "polls": "poller",
    "results": "outgoing", "deliveries": "outgoing",
}  # fmt: skip
"""The group whose place in a topic is carried over."""
GROUPS: Final = ("worker", "submitter", "poller", "outgoing", "readmodel")
"""Groups of which no process may run during a move."""
SLICES: Final = 100
SLICE_MS_MIN: Final = 60_000


def moved_topics(tenants: Iterable[str]) -> tuple[str, ...]:
    """:param tenants: those that have a topic of requests of their own."""
    return (*(topic.name for topic in TOPICS if topic.name not in LEFT), *(f"requests.{tenant}" for tenant in tenants))


def reader_of(topic: str) -> str | None:
    return READ_BY.get(topic.partition(".")[0])


def slice_ends_ms(first_ms: int, last_ms: int) -> Iterator[int]:
    """The times up to which a log is copied in turn; what is newer than all of them comes after."""
    step_ms = max(SLICE_MS_MIN, (last_ms - first_ms) // SLICES)
    yield from range(first_ms + step_ms, last_ms, step_ms)


def between(at: Mapping[Partition, int], low: Mapping[Partition, int], high: Mapping[Partition, int]) -> dict[
    Partition, int
]:  # fmt: skip
    """Each offset, moved into its limits; `low` where there is none."""
    return {partition: min(max(at.get(partition, 0), low[partition]), high[partition]) for partition in low}


@dataclass(slots=True)
class MovedRows:
    """The rows of one table. Each carries the offset of the last record that it took, which is another one now."""

    log: str
    _rows: dict[bytes, tuple[bytes, int, int]] = field(default_factory=dict)
    """By key: state, partition and offset in the old log."""
    _landed: dict[bytes, int] = field(default_factory=dict)

    def take(self, record: Record) -> None:
        """A record of the changelog. A row of a former owner, older than the one before, changes nothing: as in a
        worker's recovery.
        """
        if record.key is None:
            return
        if record.value is None:
            self._rows.pop(record.key, None)
            return
        state, offset = decode_row(record.value)
        before = self._rows.get(record.key)
        if before is None or offset >= before[2]:
            self._rows[record.key] = (state, record.partition, offset)

    def landed(self, record: Record, offset: int) -> None:
        """A record of the log was copied to `offset`."""
        row = self._rows.get(record.key or b"")
        if row is not None and row[1:] == (record.partition, record.offset):
            self._landed[record.key or b""] = offset

    def rows(self) -> list[tuple[bytes, bytes]]:
        """Key and row, to be written to the new changelog.

        :raises ConfigurationError: the log no longer has the record that a row has taken.
        """
        lost = sorted(self._rows.keys() - self._landed.keys())
        if lost:
            shown = ", ".join(key.decode(errors="replace") for key in lost[:3])
            raise ConfigurationError(
                f"{len(lost)} rows of the table of {self.log} have taken records that {self.log} does not have "
                f"({shown}): it lost records, or its retention is shorter than a job. See `backstop audit verify`"
            )
        return [(key, encode_row(state, self._landed[key])) for key, (state, _, _) in self._rows.items()]


@dataclass(frozen=True, slots=True)
class BeforeMove:
    """What stands on the old and the new topics before a move."""

    members: Mapping[str, Collection[str]]
    """By full name of a group, old or new: the clients that are in it."""
    filled: Collection[str]
    """New topics that have records."""
    unfinished: Collection[str]
    """Old topics with a transaction that has not ended."""


def refuse(found: BeforeMove) -> None:
    """:raises ConfigurationError: a move can't begin; says all reasons, and what to do."""
    said = [
        f"group {group} has members ({', '.join(sorted(clients))}): stop these processes, of the old and of the new "
        "prefix, and wait for the session timeout (15 s) where one was killed"
        for group, clients in sorted(found.members.items())
        if clients
    ]
    if found.filled:
        said.append(
            f"the new topics have records ({', '.join(sorted(found.filled))}). A move that was broken off? Nothing of "
            "the old topics has changed: delete the new ones, or choose another prefix, and begin again"
        )
    said += [
        f"{topic} has an open transaction, behind which nothing can be read: end it (docs/operating.md, 'What status "
        "knows')"
        for topic in sorted(found.unfinished)
    ]
    if said:
        raise ConfigurationError("\n".join(said))


def tables() -> dict[str, MovedRows]:
    return {log: MovedRows(log) for log in FOLDS}
