"""The projector's work on a database, without Kafka."""

from backstop.readmodel import queries, store
from backstop.readmodel.batch import ParsedRecord, Writes
from backstop.readmodel.database import Database
from backstop.readmodel.rows import JobRow
from backstop.readmodel.store import Move, OwnedPartition
from tests.unit.backstop.readmodel.conftest import NOW_MS

PARTITIONS = (("jobs", 0), ("responses", 0), ("results", 0), ("dead-letters", 0))


class Projection:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.owned: dict[tuple[str, int], OwnedPartition] = {}

    async def take_over(self) -> "Projection":
        await self.database.open()
        self.owned = await self.database.write(lambda conn: store.claim(conn, PARTITIONS))
        return self

    async def take(self, records: list[ParsedRecord], now_ms: int = NOW_MS, old: int | None = None) -> Writes:
        ends: dict[tuple[str, int], int] = {}
        for record in records:
            ends[record.position.topic, record.position.partition] = record.position.offset + 1
        moves = [
            Move(
                *partition,
                old=self.owned[partition].next_offset if old is None else old,
                new=end,
                epoch=self.owned[partition].epoch,
            )
            for partition, end in ends.items()
        ]
        writes = await self.database.write(lambda conn: store.apply(conn, moves, records, now_ms, self.database.build))
        for move in moves:
            self.owned[move.topic, move.partition] = OwnedPartition(move.new, move.epoch)
        return writes

    async def row(self, job_id: str, tenant: str = "default") -> JobRow | None:
        return await self.database.read(lambda conn: queries.find_row(conn, tenant, job_id))

    async def there(self, job_id: str, tenant: str = "default") -> JobRow:
        """The row; fails if there is none."""
        row = await self.row(job_id, tenant)
        assert row is not None, f"no row of {job_id}"
        return row
