"""Which dead letters a decision may be about, by what stands on their topic."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

from backstop.audit.dead_letters import DeadLetterEntry
from backstop.readmodel.dead_letters import dead_letter_row
from backstop.readmodel.rows import DeadLetterRow, Position
from backstop.runtime.records import Partition, Record
from receiver.reads.letter_records import READ_RECORDS_MAX, open_letters
from schemas.codec import encode
from schemas.dead_letters import DeadLetter, DeadLetterResolved
from tests.unit.backstop.readmodel.test_dead_letters import letter


class LettersInMemory:
    """The partitions of `dead-letters`, as a `TopicReader` reads them."""

    def __init__(self, *partitions: list[Any], end: int | None = None, begin: int = 0) -> None:
        self._logs = {("dead-letters", number): messages for number, messages in enumerate(partitions)}
        self._begin, self._end = begin, end
        self._next: dict[Partition, int] = {}
        self.reads = 0

    def partitions(self, topic: str) -> list[Partition]:
        return [place for place in self._logs if place[0] == topic]

    async def begins(self, places: Collection[Partition]) -> dict[Partition, int]:
        return dict.fromkeys(places, self._begin)

    async def ends(self, places: Collection[Partition]) -> dict[Partition, int]:
        return {place: len(self._logs[place]) if self._end is None else self._end for place in places}

    def seek(self, positions: Mapping[Partition, int]) -> None:
        self._next |= positions

    async def read(self, ends: Mapping[Partition, int]) -> AsyncIterator[list[Record]]:
        self.reads += 1
        for place, end in ends.items():
            found = list(enumerate(self._logs[place]))[self._next[place] : end]
            yield [Record(*place, offset, 5, each.key.encode(), encode(each)) for offset, each in found]


def row(of: DeadLetter, offset: int, partition: int = 0) -> DeadLetterRow:
    return dead_letter_row(of, Position("dead-letters", partition, offset))


def decided(of: DeadLetter, **changes: Any) -> DeadLetterResolved:
    fields = {"id": f"{of.id}/resolved/1", "at_ms": 6, "dead_letter_id": of.id, "resolution": "dropped", "by": "Ann"}
    return DeadLetterResolved(**(fields | {"record_key": of.record_key} | changes))


async def read(log: LettersInMemory, *rows: DeadLetterRow) -> tuple[list[DeadLetterEntry], dict[str, str]]:
    left_out = dict[str, str]()
    found = await open_letters(log, rows, left_out.__setitem__)  # type: ignore[arg-type]
    return found, left_out


def test_letters_of_several_partitions_come_in_the_order_asked_by_one_pass() -> None:
    async def body() -> None:
        first, second, third = letter(id="a"), letter(id="b"), letter(id="c")
        log = LettersInMemory([first, second], [third])
        found, left_out = await read(log, row(third, 0, 1), row(second, 1), row(first, 0))
        assert ([one.id for one in found], left_out, log.reads) == (["c", "b", "a"], {}, 1)

    asyncio.run(body())


def test_a_letter_at_or_behind_the_end_is_left_out_and_nothing_is_waited_for() -> None:
    async def body() -> None:
        gone = letter(id="gone")
        log = LettersInMemory([letter(id="a")])
        for offset in (1, 9):
            found, left_out = await read(log, row(gone, offset))
            assert (found, log.reads) == ([], 0)
            assert left_out == {
                "gone": f"its record is not on the topic: partition 0 ends before offset {offset}; was it made again?"
            }
        assert (await read(log, row(gone, 0, 5)))[1] == {
            "gone": "its record is not on the topic: partition 5 ends before offset 0; was it made again?"
        }

    asyncio.run(body())


def test_a_letter_before_the_beginning_or_with_another_at_its_place_is_left_out() -> None:
    async def body() -> None:
        log = LettersInMemory([letter(id="a"), letter(id="b")], begin=1)
        found, left_out = await read(log, row(letter(id="old"), 0), row(letter(id="other"), 1))
        assert found == []
        assert left_out == {
            "old": "its record is older than the topic keeps",
            "other": "its record is not at the place that the read model names",
        }

    asyncio.run(body())


def test_a_decision_that_the_read_model_does_not_show_yet_is_seen() -> None:
    async def body() -> None:
        taken, free = letter(id="taken"), letter(id="free")
        log = LettersInMemory([taken, free, letter(id="more"), decided(taken, asked_by="0123456789ab")])
        found, left_out = await read(log, row(taken, 0), row(free, 1))
        assert [one.id for one in found] == ["free"]
        assert left_out == {"taken": "it was dropped already, by Ann (key 0123456789ab)"}

    asyncio.run(body())


def test_a_letter_with_too_much_behind_it_is_for_the_command_line() -> None:
    async def body() -> None:
        one = letter(id="a")
        assert [each.id for each in (await read(LettersInMemory([one], end=READ_RECORDS_MAX), row(one, 0)))[0]] == ["a"]
        found, left_out = await read(LettersInMemory([one], end=READ_RECORDS_MAX + 1), row(one, 0))
        assert found == []
        assert left_out == {"a": "20001 offsets follow it, more than 20000: use `backstop dlq`"}

    asyncio.run(body())
