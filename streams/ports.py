"""What the shell needs of the world, as protocols: the worker hands in Kafka and RocksDB, the simulation hands in a model of both."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

from schemas.results import JobResult


class Rows(Protocol):
    """The table of one fold."""

    def partitions(self) -> set[int]:
        """Owned and recovered; others may not be read."""
        ...

    def get(self, partition: int, key: bytes) -> bytes | None: ...

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]: ...

    async def write(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        """Changelog acknowledged, then the local store. Raises if either failed: then nothing may be acknowledged."""


class WalkedRows(Rows, Protocol):
    """Rows that can be read through in steps."""

    def chunk(self, partition: int, after: bytes | None, rows_max: int) -> list[tuple[bytes, bytes]]:
        """Up to `rows_max` rows in key order, those behind `after`; fewer only where they end."""
        ...


class RowWatch(Protocol):
    """Hears of the rows of a partition before it is owned: all when its store is opened, then what its recovery changes."""

    def opened(self, partition: int) -> None:
        """Forget what was known of it: all its rows follow."""

    def saw(self, partition: int, rows: Collection[tuple[bytes, bytes | None]]) -> None:
        """Rows as they are now; None where one is gone."""


class Results(Protocol):
    """Publishes each job's result once, for the partitions it owns."""

    async def publish(self, partition: int, results: Sequence[JobResult]) -> None:
        """Return when every result is committed to `results`, by this call or by an earlier one.

        :raises FencedError: another worker owns the partition now; this one must stop.
        """
