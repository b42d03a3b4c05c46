"""Notes in a commit's metadata: the offsets above the committed one whose commands are finished.

With a note the next owner of a partition does not perform these commands again. A note is `done1:` and, in base64,
varints from the newest finished offset down: its distance from the committed offset, the number of finished offsets
right before it, the number of unfinished ones before those, and so on alternately. If not all fit, the oldest are left
out, as they expire first. A note only saves work: a foreign or unreadable note counts as none.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from itertools import pairwise

PREFIX = "done1:"

NOTE_CHARS_MAX = 3_900
"""Kafka takes 4,096 bytes by default (`offset.metadata.max.bytes`)."""

OFFSETS_TOLD_MAX = 100_000
"""A note of more offsets is invalid. A poller tracks as many (`poller.OFFSETS_HELD_MAX`)."""

_BYTES_MAX = (NOTE_CHARS_MAX - len(PREFIX)) // 4 * 3


def encode_note(next_offset: int, done: Iterable[int]) -> str:
    """A note of the offsets `done`, all at or above `next_offset`; empty without any."""
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
    """The finished offsets in the note of a commit at `next_offset`; none if the note is invalid."""
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
            raise ValueError("the note has offsets below the committed one, or too many")
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
        raise ValueError("the note is truncated")
    return numbers
