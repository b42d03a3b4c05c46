"""Rows for the follower after a recovery: the latest of running responses that can be followed."""

import asyncio
from collections.abc import Iterator, Mapping

from streams.fold import response
from streams.fold.rows import encode_response_state, encode_row
from streams.workers.streamed_rows import StreamedRows
from tests.support.builders import T0
from tests.unit.streams.fold.states import claim_of


class Table:
    """Takes every write."""

    def __init__(self) -> None:
        self.written: list[Mapping[bytes, bytes | None]] = []

    def partitions(self) -> set[int]:
        return {0, 1}

    def get(self, partition: int, key: bytes) -> bytes | None:
        return None

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        return iter(())

    async def put(self, _partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        self.written.append(rows)


def row(*, stream: bool, ended: bool = False) -> bytes:
    claimed = response.step(response.AbsentResponse(), claim_of(T0, stream=True if stream else None)).state
    assert isinstance(claimed, response.RunningResponse)
    state = response.Ended(claimed.claim, "completed", T0 + 5) if ended else claimed
    return encode_row(encode_response_state(state), 1)


def test_only_running_streams_of_owned_partitions_are_handed_out() -> None:
    table = Table()
    rows = StreamedRows(table)
    for partition in (0, 1):
        rows.opened(partition)
        rows.saw(
            partition, [(b"streams", row(stream=True)), (b"polled", row(stream=False)), (b"gone", row(stream=True))]
        )
    rows.saw(0, [(b"gone", None)])
    assert dict(rows.items(0)) == {b"streams": row(stream=True)}
    rows.own({0})
    assert dict(rows.items(1)) == {}
    changes = {b"streams": row(stream=True, ended=True), b"new": row(stream=True)}
    asyncio.run(rows.put(0, changes))
    assert table.written == [changes]
    assert dict(rows.items(0)) == {b"new": row(stream=True)}
    rows.opened(0)
    assert dict(rows.items(0)) == {}
