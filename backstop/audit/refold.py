"""Folds a log again from its beginning with the product's own `fold_batch`, with rows in memory (I4). Pure.

Memory: all rows that are not forgotten, about 1 KiB per open job with a small request and 0.3 KiB per finished one.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backstop.runtime.records import Record
from schemas.base import Message
from schemas.codec import PoisonError, decode
from schemas.requests import TIMEOUT_MS_MAX
from streams.fold.batch import JOB_FOLD, RESPONSE_FOLD, Fold, fold_batch

FOLDS: Mapping[str, Fold[Any]] = {fold.topic: fold for fold in (JOB_FOLD, RESPONSE_FOLD)}
"""By log."""


def changelog(fold_topic: str) -> str:
    """The logical name of a table's changelog. Faust builds it from
    the app (`worker`) and the table (the log's name).
    """
    return f"worker-{fold_topic}-changelog"


BEGINNINGS = frozenset({"job_submitted", "response_adopted", "job_refused", "webhook_received", "response_claimed"})
"""Types of facts that can begin a key's history."""

Rows = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Refolded:
    """The result of one batch."""

    outputs: Sequence[Message]
    """Outputs of keys whose history is whole (see `PartitionRefold.covers`)."""
    unfounded: int
    """The number of outputs of other keys, which the live system may never have made."""
    poisons: Sequence[Record]


@dataclass(slots=True)
class PartitionRefold:
    """One partition of one log. `begin` above 0: retention has
    truncated it, and some keys' histories are incomplete.
    """

    fold: Fold[Any]
    partition: int
    begin: int = 0
    rows: dict[bytes, bytes] = field(default_factory=dict)
    facts: int = 0
    poisons: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    _kept_from_ms: int | None = None
    _forget_ms_max: int = 0
    _first_seen: dict[bytes, tuple[bool, int]] = field(default_factory=dict)
    """Only for a truncated log: whether a key's first retained fact is a beginning, and its time."""

    def take(self, records: Sequence[Record]) -> Refolded:
        """Fold the next records, in offset order."""
        folded = fold_batch(self.fold, self.rows.get, records)
        for key, row in folded.rows.items():
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row
        self.facts += folded.taken
        self.poisons += len(folded.poisons)
        self.ignored.update(folded.ignored)
        if self.begin > 0:
            self._note_firsts(records)
        founded = [output for output in folded.outputs if self.covers(self._cause_key(output))]
        poisons = [
            record
            for record, error in folded.poisons
            # Whether a submission conflicts with another one depends on earlier facts.
            if error.reason != "conflict" or self.covers(record.key or b"")
        ]
        return Refolded(founded, len(folded.outputs) - len(founded), poisons)

    def covers(self, key: bytes) -> bool:
        """Whether the key's whole history is certainly in the log, so that its refold must equal its row.

        In a truncated log: the first retained fact begins a history, and comes so long after the truncation that any
        older fact of the key would have been forgotten by then (the longest life of a job, plus the longest memory
        after its end).
        """
        if self.begin == 0:
            return True
        is_beginning, at_ms = self._first_seen.get(key, (False, 0))
        return is_beginning and at_ms >= self.whole_from_ms

    @property
    def whole_from_ms(self) -> int:
        """Histories that begin at this time or later are whole."""
        if self.begin == 0:
            return 0
        return (self._kept_from_ms or 0) + TIMEOUT_MS_MAX + self._forget_ms_max

    def digest(self) -> str:
        return digest(self.rows)

    def _cause_key(self, output: Message) -> bytes:
        """The key of the fact that caused an output: each output names the job or the response of its fold."""
        name = "job_id" if self.fold.topic == "jobs" else "response_id"
        return str(getattr(output, name)).encode()

    def _note_firsts(self, records: Sequence[Record]) -> None:
        for record in records:
            if self._kept_from_ms is None:
                self._kept_from_ms = record.timestamp_ms
            try:
                fact = decode(self.fold.facts, record.value)
            except PoisonError:
                continue
            policy = getattr(fact, "policy", fact)
            self._forget_ms_max = max(self._forget_ms_max, getattr(policy, "forget_after_ms", 0))
            self._first_seen.setdefault(record.key or b"", (fact.type in BEGINNINGS, fact.at_ms))


def digest(rows: Rows) -> str:
    """SHA-256 over rows in key order, each with its lengths: equal rows give equal digests, whatever their order."""
    total = hashlib.sha256()
    for key in sorted(rows):
        total.update(b"%d:%s=%d:%s\n" % (len(key), key, len(rows[key]), rows[key]))
    return total.hexdigest()
