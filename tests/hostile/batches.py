"""Record batches as raw bytes, built by hand: what a broker stores and no client library would write."""

import io
import struct
import zlib
from dataclasses import dataclass, field

import cramjam
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.record.util import calc_crc32c

import backstop.runtime.kafka.hardened_fetch as hardened

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODECS = {NONE: "none", GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}
TP = TopicPartition("t.requests", 3)
Headers = tuple[tuple[bytes, bytes | None], ...]


def varint(value: int) -> bytes:
    raw = value * 2 if value >= 0 else -value * 2 - 1
    out = bytearray()
    while raw > 0x7F:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    out.append(raw)
    return bytes(out)


def sized(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def record(
    value: bytes | None = b"v", key: bytes | None = b"k", headers: Headers = (), offset: int = 0, time_ms: int = 0
) -> bytes:
    """As it stands in a batch, behind its own length."""
    body = b"\0" + varint(time_ms) + varint(offset) + sized(key) + sized(value) + varint(len(headers))
    body += b"".join(sized(name) + sized(data) for name, data in headers)
    return varint(len(body)) + body


def compress(codec: int, data: bytes) -> bytes:
    match codec:
        case 1:
            return bytes(cramjam.gzip.compress(data))
        case 2:
            return bytes(cramjam.snappy.compress_raw(data))
        case 3:
            return bytes(cramjam.lz4.compress(data))
        case 4:
            return bytes(cramjam.zstd.compress(data))
    return data


@dataclass(frozen=True)
class Batch:
    """One batch (magic 2), consistent unless told otherwise."""

    records: tuple[bytes, ...] = field(default_factory=lambda: (record(),))
    base: int = 0
    codec: int = NONE
    flags: int = 0
    """Of the attributes, beside the codec."""
    count: int | None = None
    delta: int | None = None
    magic: int = 2
    producer: int = -1
    packed: bytes | None = None
    """In the place of the records."""
    first_ms: int = 1_000
    crc_off: int = 0

    def bytes(self) -> bytes:
        count = len(self.records) if self.count is None else self.count
        delta = len(self.records) - 1 if self.delta is None else self.delta
        payload = compress(self.codec, b"".join(self.records)) if self.packed is None else self.packed
        checked = struct.pack(
            ">hiqqqhii", self.flags | self.codec, delta, self.first_ms, self.first_ms, self.producer, 0, -1, count
        )
        checked += payload
        crc = (calc_crc32c(checked) + self.crc_off) & 0xFFFFFFFF
        return struct.pack(">qiibI", self.base, 9 + len(checked), 0, self.magic, crc) + checked


def message(value: bytes | None, key: bytes | None = b"k", offset: int = 0, magic: int = 1, codec: int = NONE) -> bytes:
    """Of a message set (magic 0 or 1)."""
    body = struct.pack(">bb", magic, codec) + (struct.pack(">q", 77) if magic else b"")
    for data in (key, value):
        body += struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data
    return struct.pack(">qiI", offset, len(body) + 4, zlib.crc32(body)) + body


class Read:
    """What a consumer gets of `data`, fetched from `offset` again and again until nothing is left to be had."""

    def __init__(
        self, data: bytes, offset: int = 0, aborted: list[tuple[int, int]] | None = None, end: int = 2**63
    ) -> None:
        self.records: list[object] = []
        self.offset = offset
        self.rounds = 0
        while self.offset < end:  # a broker has nothing behind the end of its log
            self.rounds += 1
            fetched = hardened.FetchedBytes(self._from(data, self.offset))
            if not fetched.has_next():
                break
            of = hardened.PartitionRecords(TP, fetched, aborted, self.offset, None, None, True, READ_COMMITTED)
            self.records += list(of)
            assert of.next_fetch_offset >= self.offset
            self.offset = of.next_fetch_offset
            assert self.rounds < 10_000

    def _from(self, data: bytes, offset: int) -> bytes:
        return batches_from(data, offset)


def batches_from(data: bytes, offset: int) -> bytes:
    """As a broker: from the batch that holds `offset`, by what the headers of batches say."""
    at = 0
    while at + 12 <= len(data):
        base, length = struct.unpack_from(">qi", data, at)
        magic = data[at + 16] if at + 16 < len(data) else 2
        delta = struct.unpack_from(">i", data, at + 23)[0] if magic >= 2 and at + 27 <= len(data) else 0
        if base + max(delta, 0) >= offset:
            return data[at:]
        if length < 5:
            break
        at += 12 + length
    return b""


def zeros(codec: int, size_mb: int) -> bytes:
    """A bomb: `size_mb` megabytes of zeros, packed a megabyte at a time (snappy has no stream)."""
    zero = bytes(1 << 20)
    out = io.BytesIO()
    if codec == SNAPPY:
        block = bytes(cramjam.snappy.compress_raw(zero))
        out.write(b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1))
        out.write((struct.pack(">i", len(block)) + block) * size_mb)
        return out.getvalue()
    packer = {
        GZIP: cramjam.gzip.Compressor,
        LZ4: cramjam.lz4.Compressor,
        ZSTD: cramjam.zstd.Compressor,
    }[codec]()
    for _ in range(size_mb):
        packer.compress(zero)
        out.write(bytes(packer.flush()))
    out.write(bytes(packer.finish()))
    return out.getvalue()
