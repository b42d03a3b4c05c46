"""Wrong variants of the system, to be handed in: each must be caught, or the checks have a hole."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from schemas.commands import CreateResponse
from schemas.jobs import JobSubmitted
from streams.agents.fold_shell import FoldRecord, FoldShell
from streams.early_creates import EarlyCreates
from streams.fold import job
from streams.fold.batch import JOB_FOLD, Fold, fold_batch
from streams.fold.step import Step
from streams.ports import Rows


@dataclass(frozen=True, slots=True)
class Wrong:
    """All off is the system as it is."""

    rows_before_outputs: bool = False
    acknowledges_before_rows: bool = False
    acknowledges_failures: bool = False
    no_tail: bool = False
    no_fence: bool = False
    tail_before_fence: bool = False
    forgets_commands: bool = False
    commits_after_post: bool = False
    repeats_creates: bool = False
    index_before_recovery: bool = False
    no_index_after_rebalance: bool = False
    takes_redelivered: bool = False
    takes_submissions_twice: bool = False
    changelog_last: bool = False
    zombie_rows_unnoticed: bool = False
    store_ahead_of_the_changelog: bool = False
    overruled_rows_forgotten: bool = False
    polls_committed_early: bool = False
    rows_unguarded: bool = False
    commits_before_rows: bool = False
    hands_over_past_others: bool = False
    creates_before_grants: bool = False

    def early(self) -> EarlyCreates:
        return _Hasty() if self.creates_before_grants else EarlyCreates()

    def shell(self) -> type[FoldShell]:
        return _RowsFirst if self.rows_before_outputs else FoldShell

    def fold(self, fold: Fold[Any]) -> Fold[Any]:
        if self.takes_submissions_twice and fold is JOB_FOLD:
            return replace(fold, step=_submits_again)
        return fold

    def rows(self, rows: Rows) -> Rows:
        return _Offsetless(rows) if self.takes_redelivered else rows


RIGHT = Wrong()
BUGS = tuple(field.name for field in fields(Wrong))


class _Hasty(EarlyCreates):
    """Takes a grant for known that may never reach the log."""

    async def granted(self, command: CreateResponse) -> bool:
        return True


class _RowsFirst(FoldShell):
    async def take(self, partition: int, records: Sequence[FoldRecord]) -> None:
        folded = fold_batch(self._fold, lambda key: self._rows.get(partition, key), records)
        if folded.rows:
            await self._rows.put(partition, folded.rows)
        await self._publish(partition, folded)
        for key, due_ms in folded.dues_ms.items():
            self._index.put(partition, key, due_ms)


class _Offsetless:
    """Rows that forget which record they took last, so that a redelivered one is folded again."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def partitions(self) -> set[int]:
        return self._rows.partitions()

    def get(self, partition: int, key: bytes) -> bytes | None:
        row = self._rows.get(partition, key)
        return None if row is None else b"0 " + row.partition(b" ")[2]

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        return self._rows.items(partition)

    async def put(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        await self._rows.put(partition, rows)


def _submits_again(state: Any, event: Any) -> Step[Any]:
    return job.step(job.Absent() if isinstance(event, JobSubmitted) else state, event)
