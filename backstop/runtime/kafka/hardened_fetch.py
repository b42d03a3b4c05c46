"""The decoder of fetched bytes for every consumer: records in order, and a stand-in for each that can't be read.

aiokafka 0.14 raises on a batch that it can't decode (damaged, a header name that is not UTF-8, an unknown codec), and
raises again each time the batch is fetched: one record stops its readers for good. It also unpacks a batch to any size.
This module replaces its decoder for all consumers of the process, Faust's included:

- A record that can't be read is returned with a value of type `Unreadable`; the other records of its batch are read. A
  batch that can't be read becomes one such record, at its last offset. `decode` rejects the value, so each consumer
  dead-letters it like any malformed record.
- A damaged batch is fetched a second time first: the damage may have happened in transit.
- A batch unpacks to a bounded size (`unpack_at_most`), and a record has a bounded number of headers.
- A consumer receives a bounded number of records and bytes of a partition at once (`fetch_result`); the rest of a fetch
  waits, packed.
- The position only moves forward, and never past the end that the batch just read declares.
"""

# Uses private parts of aiokafka throughout. Its version is pinned, and `tests/hostile` tests each part.
import struct
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

import structlog
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.structs import ConsumerRecord, TopicPartition

from backstop.runtime.kafka.fetch_result import BYTES_AT_ONCE_MAX, FetchResult
from backstop.runtime.kafka.record_formats import (
    CODEC_MASK,
    COMPRESSED_RECORDS_MAX,
    HEADERS_MAX,
    LOG_APPEND_TIME,
    NO_TIMESTAMP,
    BatchTimes,
    FormatError,
    Read,
    has_longer_record,
    messages,
    records_one_by_one,
)
from backstop.runtime.kafka.unpacking import TooLargeError, UnpackError, unpack
from backstop.runtime.record_sizes import TOPIC_BYTES_MAX, UNPACKED_BYTES_MAX
from schemas.unreadable import Unreadable

log = structlog.get_logger()

SUSPECTS_MAX = 1_000
"""Damaged batches remembered while they are fetched again. Beyond
this all are forgotten, and each is fetched once more.
"""
OFFSETS_OF_A_BATCH_MAX = 10_000_000
"""A header that declares more offsets is damaged: so many records would exceed the limit on unpacked batches."""
OFFSET_MAX = 2**63 - 1  # The protocol's largest number.

_HEADER = struct.Struct(">qiibIhiqqqhii")
_HEADER_BYTES = 61
_LENGTH_END, _MAGIC_AT, _ATTRIBUTES_AT, _COUNT_AT = 12, 16, 21, 57
_PLACE = struct.Struct(">qi4xb4xhi")
"""Base offset, length, magic, attributes, offset delta."""
_PAYLOAD_FROM = _HEADER_BYTES - _LENGTH_END
_INT16, _INT32, _INT64 = struct.Struct(">h"), struct.Struct(">i"), struct.Struct(">q")
_MAGIC = 2
_TRANSACTIONAL, _CONTROL = 0x10, 0x20
_MARKED = _TRANSACTIONAL | _CONTROL
_ODD = _MARKED | CODEC_MASK

Reason = Literal["unreadable", "too_large"]


class _Limits:
    unpacked_bytes_max = UNPACKED_BYTES_MAX


def unpack_at_most(bytes_max: int) -> None:
    """Set the size that a batch may unpack to, for all consumers of this process."""
    _Limits.unpacked_bytes_max = bytes_max


class DamagedError(Exception):
    """A batch's bytes are damaged; a second fetch may return them intact."""


_Opened = tuple[Any, memoryview, int]
"""A batch that aiokafka can iterate, its unpacked bytes, and the offset after its last."""


class FetchedBytes:
    """Replaces aiokafka's `MemoryRecords`, which raises on bytes that hold no whole batch."""

    def __init__(self, data: bytes | None) -> None:
        self.data = data or b""

    def has_next(self) -> bool:
        return bool(self.data)

    def size_in_bytes(self) -> int:
        return len(self.data)


class PartitionRecords:
    """Replaces aiokafka's class of this name: an iterator over one partition's records of one fetch."""

    _suspects: ClassVar[dict[tuple[TopicPartition, int], bool]] = {}
    """Partition and offset of batches that were damaged in their first fetch."""

    def __init__(
        self,
        tp: TopicPartition,
        records: FetchedBytes,
        aborted_transactions: Any,
        fetch_offset: int,
        _key_deserializer: Any,
        _value_deserializer: Any,
        check_crcs: bool,
        isolation_level: int,
    ) -> None:
        self._tp = tp
        self._data = records.data
        self._aborted: list[tuple[int, int]] = sorted(aborted_transactions or [], key=lambda each: each[1])
        self._aborted_producers: set[int] = set()
        self._check_crcs = check_crcs
        self._committed_only = isolation_level == fetcher.READ_COMMITTED
        self.next_fetch_offset = fetch_offset
        self.unpacked_bytes = 0
        """Of all compressed batches so far, those that unpack to too much included."""
        self._begin, self._batch_at, self._room_bytes = fetch_offset, 0, 0
        self._iterator: Iterator[Any] = self._read()

    def __iter__(self) -> Iterator[Any]:
        return self._iterator

    def pack_up(self) -> None:
        """Free the memory of a large unpacked batch; each partition may have one. The next record unpacks it again."""
        if self._room_bytes > BYTES_AT_ONCE_MAX:
            self._iterator = self._read()

    def __next__(self) -> Any:
        return next(self._iterator)

    def _read(self) -> Iterator[Any]:
        data, at = memoryview(self._data), self._batch_at
        topic, partition = self._tp
        while at < len(data):
            self._batch_at, self._room_bytes = at, 0
            opened, at = self._open_at(data, at)
            if type(opened) is not tuple:
                yield from opened
                continue
            # Inline, without a generator: most batches hold one or two records, and each generator step would add cost.
            index, (batch, _, end) = 0, opened
            try:
                for index, record in enumerate(batch):  # noqa: B007 - `index` is used when the loop raises
                    offset = record.offset
                    if offset < self.next_fetch_offset:
                        continue
                    headers = record.headers
                    if offset >= end or len(headers) > HEADERS_MAX:
                        raise FormatError("an offset past the batch's end, or too many headers")
                    key, value = record.key, record.value
                    self.next_fetch_offset = offset + 1
                    yield ConsumerRecord(
                        topic, partition, offset, record.timestamp, record.timestamp_type, key, value, None,
                        -1 if key is None else len(key), -1 if value is None else len(value), tuple(headers),
                    )  # fmt: skip
            except Exception as error:  # aiokafka raises many kinds, and its next release may add some
                log.debug("batch_read_record_by_record", topic=topic, partition=partition, error=repr(error))
                yield from self._one_by_one(opened, index)
            self.next_fetch_offset = max(self.next_fetch_offset, end)
        if (begin := self.next_fetch_offset) == self._begin and at == len(data):
            yield self._stand_in(begin, begin + 1, "unreadable", "the broker's data ends before this offset")

    def _open_at(self, data: memoryview, at: int) -> "tuple[_Opened | Iterable[Any], int]":
        """The batch at `at`, and where the next one begins: past the
        end of `data` if this one is to be fetched again.
        """
        first, size = self.next_fetch_offset, len(data)
        nowhere = size + 1
        if size - at >= _HEADER_BYTES:
            base, length, magic, attributes, delta = _PLACE.unpack_from(data, at)
            if magic == _MAGIC and not attributes & _ODD and _PAYLOAD_FROM <= length <= TOPIC_BYTES_MAX:
                # The common case: a plain, complete batch.
                after = at + _LENGTH_END + length
                offset = base + delta + 1
                if after <= size and 0 <= delta < OFFSETS_OF_A_BATCH_MAX and first < offset <= OFFSET_MAX:
                    view = data[at:after]
                    batch = DefaultRecordBatch(view)
                    if batch.validate_crc():
                        return (batch, view, offset), after
        end = _batch_end(data, at)
        try:
            if end is None and at:
                return [], nowhere  # truncated by the fetch's size limit: the next fetch begins with it
            if end is None:
                raise DamagedError(f"a batch longer than the {len(data)} bytes received")
            return self._open(data[at:end]), end
        except DamagedError as error:
            behind = _offset_behind(data[at:], first)
            if behind <= first:
                return [], end or nowhere
            if self._fetch_again(first):
                return [], nowhere
            return [self._stand_in(first, behind, "unreadable", str(error))], end or nowhere

    def _fetch_again(self, offset: int) -> bool:
        """True at the first damaged fetch of `offset`; False at the second, when the damage is on the broker."""
        suspect = (self._tp, offset)
        if self._suspects.pop(suspect, False):
            return False
        if len(self._suspects) >= SUSPECTS_MAX:
            self._suspects.clear()
        self._suspects[suspect] = True
        return True

    def _open(self, data: memoryview) -> "_Opened | Iterable[Any]":
        """The batch; or the records to return instead, where aiokafka must not decode it.

        :raises DamagedError: its bytes are damaged, or its format is unknown.
        """
        magic = data[_MAGIC_AT]
        if magic != _MAGIC:
            if magic > _MAGIC:
                raise DamagedError(f"record format {magic} is unknown to this release")
            return self._messages(data)
        if len(data) < _HEADER_BYTES:
            raise DamagedError(f"a batch of {len(data)} bytes")
        base, _, _, attributes, delta = _PLACE.unpack_from(data)
        end = base + delta + 1
        batch = DefaultRecordBatch(data)
        if self._check_crcs and not batch.validate_crc():
            raise DamagedError("wrong checksum")
        if not 0 <= delta < OFFSETS_OF_A_BATCH_MAX:
            raise DamagedError(f"a batch of {delta + 1} offsets")
        if end > OFFSET_MAX:
            raise DamagedError(f"a batch up to offset {end - 1}, which no log reaches")
        if attributes & _MARKED and self._passes_over(base, attributes, batch.producer_id):
            self.next_fetch_offset = max(self.next_fetch_offset, end)
            return []
        if end <= self.next_fetch_offset:
            return []
        if attributes & CODEC_MASK:
            return self._unpacked(data, base, attributes, end)
        if len(data) > TOPIC_BYTES_MAX:
            return self._large((batch, data, end))
        return (batch, data, end)

    def _unpacked(self, data: memoryview, base: int, attributes: int, end: int) -> "_Opened | Iterable[Any]":
        codec = attributes & CODEC_MASK
        plain = bytes(data[:_ATTRIBUTES_AT]) + _INT16.pack(attributes & ~CODEC_MASK)
        plain += bytes(data[_ATTRIBUTES_AT + _INT16.size : _HEADER_BYTES])
        first = max(base, self.next_fetch_offset)
        try:
            data = unpack(codec, data[_HEADER_BYTES:], plain, _Limits.unpacked_bytes_max)
        except UnpackError as error:
            self.unpacked_bytes += _Limits.unpacked_bytes_max
            reason: Reason = "too_large" if isinstance(error, TooLargeError) else "unreadable"
            return [self._stand_in(first, end, reason, str(error))]
        self.unpacked_bytes += len(data)
        self._room_bytes = len(data)
        (count,) = _INT32.unpack_from(data, _COUNT_AT)
        if count > COMPRESSED_RECORDS_MAX:
            why = f"{count} records in a compressed batch; the limit is {COMPRESSED_RECORDS_MAX}"
            return [self._stand_in(first, end, "too_large", why)]
        opened: _Opened = (DefaultRecordBatch(data), data, end)
        return self._large(opened) if len(data) > TOPIC_BYTES_MAX else opened

    def _large(self, opened: "_Opened") -> "_Opened | Iterable[Any]":
        """A record longer than the topic's limit could hold millions of
        headers, which aiokafka would decode: read it here.
        """
        (count,) = _INT32.unpack_from(opened[1], _COUNT_AT)
        if has_longer_record(opened[1][_HEADER_BYTES:], count, TOPIC_BYTES_MAX):
            return self._one_by_one(opened, 0)
        return opened

    def _passes_over(self, base: int, attributes: int, producer: int) -> bool:
        """Whether a batch is a control marker, or part of an aborted transaction.

        Any marker of a producer ends its transaction. Its content need not be read: the fetch names the aborted ones.
        """
        if self._committed_only:
            while self._aborted and self._aborted[0][1] <= base:
                self._aborted_producers.add(self._aborted.pop(0)[0])
            if attributes & _CONTROL:
                self._aborted_producers.discard(producer)
            elif attributes & _TRANSACTIONAL and producer in self._aborted_producers:
                return True
        return bool(attributes & _CONTROL)

    def _one_by_one(self, opened: "_Opened", begin: int) -> Iterator[Any]:
        """The remaining records of a batch that aiokafka can't decode, from index `begin`."""
        _, data, end = opened
        header = _HEADER.unpack_from(data)
        base, attributes, first_ms, last_ms, count = header[0], header[5], header[7], header[8], header[12]
        times = BatchTimes(first_ms, last_ms, bool(attributes & LOG_APPEND_TIME))
        for found in records_one_by_one(data[_HEADER_BYTES:], count, base, times, begin):
            at = self.next_fetch_offset
            if isinstance(found, Read) and found.offset < end:
                if found.offset >= at:
                    yield self._record(found, int(times.appended))
            elif isinstance(found, Read) or found.rest or found.offset >= end:
                why = "a record's offset is past the end of its batch" if isinstance(found, Read) else found.why
                if at < end:
                    yield self._stand_in(at, end, "unreadable", why)
                return
            elif found.offset >= at:
                yield self._stand_in(
                    found.offset, found.offset + 1, "unreadable", found.why, found.key, found.value, found.timestamp_ms
                )
        self.next_fetch_offset = max(self.next_fetch_offset, end)

    def _messages(self, data: memoryview) -> Iterable[Any]:
        """The records of a message in a format older than Kafka 0.11."""
        (offset,) = _INT64.unpack_from(data)
        if offset < self.next_fetch_offset:
            return []
        if offset >= OFFSET_MAX:
            raise DamagedError(f"a message at offset {offset}, which no log reaches")
        try:
            found = list(messages(data, lambda codec, packed: unpack(codec, packed, b"", _Limits.unpacked_bytes_max)))
        except FormatError as error:
            raise DamagedError(str(error)) from None
        except UnpackError as error:
            reason: Reason = "too_large" if isinstance(error, TooLargeError) else "unreadable"
            return [self._stand_in(self.next_fetch_offset, offset + 1, reason, str(error))]
        return self._of_messages(found, offset)

    def _of_messages(self, found: list[Read], offset: int) -> Iterator[Any]:
        for read in found:
            if self.next_fetch_offset <= read.offset <= offset:
                yield self._record(read, 0)
        self.next_fetch_offset = offset + 1

    def _record(self, read: Read, timestamp_type: int) -> Any:
        self.next_fetch_offset = read.offset + 1
        return ConsumerRecord(
            *self._tp, read.offset, read.timestamp_ms, timestamp_type, read.key, read.value, None,
            -1 if read.key is None else len(read.key), -1 if read.value is None else len(read.value), read.headers,
        )  # fmt: skip

    def _stand_in(
        self,
        offset: int,
        end: int,
        reason: Reason,
        why: str,
        key: bytes | None = None,
        value: bytes | None = None,
        timestamp_ms: int = NO_TIMESTAMP,
    ) -> Any:
        """A record in place of the offsets [offset, end).

        It has the last offset: a reader that commits after it, or resumes within the range, makes no second dead
        letter.
        """
        self.next_fetch_offset = max(self.next_fetch_offset, end)
        where = f"offset {offset}" if end - offset <= 1 else f"offsets {offset} to {end - 1}"
        topic, partition = self._tp
        log.warning("record_unreadable", topic=topic, partition=partition, offset=offset, end=end, why=why)
        unreadable = Unreadable.of(reason, f"{where}: {why}", value)
        at = max(offset, end - 1)
        return ConsumerRecord(topic, partition, at, timestamp_ms, 0, key, unreadable, None, -1, -1, ())


def _batch_end(data: memoryview, at: int) -> int | None:
    """Where the batch at `at` ends; None if it is incomplete, or its length is impossible."""
    if len(data) - at <= _MAGIC_AT:
        return None
    (length,) = _INT32.unpack_from(data, at + 8)
    end: int = at + _LENGTH_END + length
    return end if at + _MAGIC_AT < end <= len(data) else None


def _offset_behind(data: memoryview, offset: int) -> int:
    """The first offset after the damaged batch at the start of `data`; `offset` itself if the batch lies before it.

    The damaged header may be wrong too: if another batch follows, its base offset bounds the answer.
    """
    end = _batch_end(data, 0)
    following = None if end is None or len(data) - end < _INT64.size else _INT64.unpack_from(data, end)[0]
    said = offset + 1
    if len(data) >= _HEADER_BYTES and data[_MAGIC_AT] == _MAGIC:
        header = _HEADER.unpack_from(data)
        if (
            0 <= header[6] < OFFSETS_OF_A_BATCH_MAX
            and offset <= header[0] + header[6] < offset + OFFSETS_OF_A_BATCH_MAX
        ):
            said = min(header[0] + header[6] + 1, OFFSET_MAX)
    elif len(data) >= _INT64.size:
        (own,) = _INT64.unpack_from(data)
        said = min(own + 1, OFFSET_MAX) if offset <= own < offset + OFFSETS_OF_A_BATCH_MAX else said
    return said if following is None else max(offset, min(said, following))


fetcher.MemoryRecords = FetchedBytes
fetcher.PartitionRecords = PartitionRecords
fetcher.FetchResult = FetchResult
