"""What is finished behind a committed offset, in the commit's metadata: so the next owner of a partition does not do it again.

A note is `done1:` and, in base64, varints from the newest finished offset down: its distance from the committed offset, how many
offsets before it are finished without a gap, how many after that are not, and so on by turns. Where not all fits the oldest is
left out, as it has expired first. A note only saves work: one that is not ours, or can't be read, counts as none.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from itertools import pairwise

PREFIX = "done1:"

NOTE_CHARS_MAX = 3_900
"""Kafka takes 4,096 bytes by default (`offset.metadata.max.bytes`)."""

OFFSETS_TOLD_MAX = 100_000
"""A note that tells of more is not ours. As many as a poller holds (`caller.OFFSETS_HELD_MAX`)."""

_BYTES_MAX = (NOTE_CHARS_MAX - len(PREFIX)) // 4 * 3


def encode_note(next_offset: int, done: Iterable[int]) -> str:
    """A note on `done`, all of it behind `next_offset`; empty where nothing is."""
    newest_first = sorted(done, reverse=True)
    if not newest_first:
        return ""
    found = bytearray()
    for number in _lengths(next_offset, newest_first):
        piece = _varint(number)
        if len(found) + len(piece) > _BYTES_MAX:
            break
        found += piece
    return PREFIX + base64.b64encode(found).decode()


def decode_note(next_offset: int, note: str) -> frozenset[int]:
    """The offsets that the note of a commit at `next_offset` tells of."""
    if not note.startswith(PREFIX) or len(note) > NOTE_CHARS_MAX:
        return frozenset()
    try:
        numbers = _numbers(base64.b64decode(note[len(PREFIX) :], validate=True))
        return frozenset(_offsets(next_offset, numbers))
    except (ValueError, binascii.Error):
        return frozenset()


def _lengths(next_offset: int, newest_first: list[int]) -> Iterator[int]:
    yield newest_first[0] - next_offset
    run = 0
    for later, earlier in pairwise(newest_first):
        if later - earlier == 1:
            run += 1
        else:
            yield run
            yield later - earlier - 2
            run = 0
    yield run


def _offsets(next_offset: int, numbers: list[int]) -> Iterator[int]:
    if not numbers:
        return
    at, told = next_offset + numbers[0], 0
    for index in range(1, max(2, len(numbers)), 2):
        run = numbers[index] if index < len(numbers) else 0
        told += run + 1
        if at - run < next_offset or told > OFFSETS_TOLD_MAX:
            raise ValueError("the note tells of offsets that it can't know")
        yield from range(at - run, at + 1)
        at -= run + 2 + (numbers[index + 1] if index + 1 < len(numbers) else 0)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _numbers(data: bytes) -> list[int]:
    numbers, number, shift = [], 0, 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte & 0x80:
            continue
        numbers.append(number)
        number, shift = 0, 0
    if shift:
        raise ValueError("the note is cut")
    return numbers
