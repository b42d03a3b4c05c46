"""The records behind rows of dead letters, with the decisions that follow them on the topic.

The read model is a moment behind, so a decision that it does not show yet is found here.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from backstop.audit.dead_letters import DeadLetterEntry, collect
from backstop.readmodel.dead_letters import dead_letter_name
from backstop.readmodel.rows import DeadLetterRow
from backstop.runtime.kafka.topic_reader import TopicReader
from backstop.runtime.records import Partition, Record

TOPIC: Final = "dead-letters"
READ_RECORDS_MAX: Final = 20_000
"""Offsets of one partition, from a dead letter to the end, that are searched for decisions about it."""

DECISION: Final = b'"dead_letter_resolved"'


async def open_letters(
    reader: TopicReader, rows: Sequence[DeadLetterRow], leave_out: Callable[[str, str], None]
) -> list[DeadLetterEntry]:
    """The dead letters of `rows` without a decision, in that order; the others are left out with the reason."""
    wanted = await _places(reader, rows, leave_out)
    found = {dead_letter_name(one.id): one for one in collect(await _records(reader, wanted)).letters}
    letters = []
    for row in (row for row in rows if row.position.offset in wanted.get((TOPIC, row.position.partition), ())):
        letter = found.get(row.dead_letter_id)
        if letter is None:
            leave_out(row.dead_letter_id, "its record is not at the place that the read model names")
        elif letter.open:
            letters.append(letter)
        else:
            leave_out(row.dead_letter_id, f"it was {letter.status} already, by {letter.decisions[-1].author}")
    return letters


async def _places(
    reader: TopicReader, rows: Sequence[DeadLetterRow], leave_out: Callable[[str, str], None]
) -> dict[Partition, set[int]]:
    """The offsets to read. One at which the topic has nothing would be waited for."""
    partitions = reader.partitions(TOPIC)
    begins, ends = await reader.begins(partitions), await reader.ends(partitions)
    wanted = defaultdict[Partition, set[int]](set)
    for row in rows:
        place, offset = (TOPIC, row.position.partition), row.position.offset
        end = ends.get(place, 0)
        if offset < begins.get(place, 0):
            leave_out(row.dead_letter_id, "its record is older than the topic keeps")
        elif offset >= end:
            leave_out(
                row.dead_letter_id,
                f"its record is not on the topic: partition {place[1]} ends before offset {offset}; was it made again?",
            )
        elif end - offset > READ_RECORDS_MAX:
            leave_out(
                row.dead_letter_id,
                f"{end - offset} offsets follow it, more than {READ_RECORDS_MAX}: use `backstop dlq`",
            )
        else:
            wanted[place].add(offset)
    return dict(wanted)


async def _records(reader: TopicReader, wanted: dict[Partition, set[int]]) -> list[Record]:
    """The records at these offsets, and the decisions behind them with a key of theirs: a decision has its dead
    letter's. Of what else is read nothing is kept.
    """
    if not wanted:
        return []
    ends = await reader.ends(list(wanted))
    reader.seek({place: min(offsets) for place, offsets in wanted.items()})
    kept, keys = list[Record](), set[tuple[int, bytes | None]]()
    async for batch in reader.read(ends):
        for record in batch:
            key = (record.partition, record.key)
            if record.offset in wanted[TOPIC, record.partition]:
                keys.add(key)
            elif key not in keys or DECISION not in (record.value or b""):
                continue
            kept.append(record)
    return kept
