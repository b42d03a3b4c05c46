"""Protocols of what the shell uses: the worker passes Kafka and RocksDB, the simulation a model of both."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

from schemas.results import JobResult


class Rows(Protocol):
    """The table of one fold."""

    def partitions(self) -> set[int]:
        """The partitions that are owned and recovered. No other partition may be read."""
        ...

    def get(self, partition: int, key: bytes) -> bytes | None: ...

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]: ...

    async def put(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        """Take rows whose outputs are acknowledged. Reads see them at once.

        They are written before the offsets of their records are committed, or the process ends.
        """


class WalkedRows(Rows, Protocol):
    """Rows that can be read through in steps."""

    def chunk(self, partition: int, after: bytes | None, rows_max: int) -> list[tuple[bytes, bytes]]:
        """Up to `rows_max` rows after the key `after`, in key order; fewer only at the end of the partition."""
        ...


class RowWatch(Protocol):
    """Sees a partition's rows before it is owned: all when its store is opened, then those that recovery changes."""

    def opened(self, partition: int) -> None:
        """Forget the partition's rows: `saw` is called with all of them next."""

    def saw(self, partition: int, rows: Collection[tuple[bytes, bytes | None]]) -> None:
        """The current rows by key; None for a deleted row."""


class Results(Protocol):
    """Publishes each job's result once, for the owned partitions."""

    async def publish(self, partition: int, results: Sequence[JobResult]) -> None:
        """Return when every result is committed to `results`, by this call or by an earlier one.

        :raises FencedError: another worker owns the partition now; this process must end.
        """
