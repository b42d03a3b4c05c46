"""Rows of running responses that can be followed, so that the follower need not read all rows after each recovery."""

from collections.abc import Collection, Iterator, Mapping

from streams.ports import Rows

MARKS = (b'"stream":true', b'"kind":"running"')
"""In each such row, and rarely in others: the reader must decode the rows to be sure."""


class StreamedRows:
    """A `RowWatch`, and `Rows` whose `items` are only the followable rows: at most one per open response."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._found: dict[int, dict[bytes, bytes]] = {}
        self.partitions = rows.partitions
        self.get = rows.get

    def opened(self, partition: int) -> None:
        self._found[partition] = {}

    def saw(self, partition: int, rows: Collection[tuple[bytes, bytes | None]]) -> None:
        found = self._found.setdefault(partition, {})
        for key, row in rows:
            if row is not None and all(mark in row for mark in MARKS):
                found[key] = row
            else:
                found.pop(key, None)

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._found.get(partition, {}).items())

    async def put(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        await self._rows.put(partition, rows)
        self.saw(partition, rows.items())

    def own(self, partitions: Collection[int]) -> None:
        """Forget all other partitions."""
        self._found = {each: found for each, found in self._found.items() if each in partitions}
