"""Unpacks compressed record batches into a buffer of bounded size.

The codecs write into the given buffer and stop at its end, so no more than that is ever in memory. A large buffer is
memory-mapped: untouched pages cost nothing, so it may be as large as the bound. Small batches, the most frequent, get a
small buffer.
"""

import mmap
import struct
from collections.abc import Callable
from typing import Any

import cramjam

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
"""Codecs as Kafka numbers them (`attributes`, bits 0 to 2)."""
NAMES = {GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}

_STREAMED: dict[int, Callable[[Any, Any], int]] = {
    GZIP: cramjam.gzip.decompress_into,
    LZ4: cramjam.lz4.decompress_into,
    ZSTD: cramjam.zstd.decompress_into,
}
_XERIAL = b"\x82SNAPPY\x00"
"""Java's snappy library writes blocks after a header of 16 bytes; librdkafka writes one raw block."""
_XERIAL_BYTES = 16
_BLOCK = struct.Struct(">i")
_BLOCKS_MAX = 32_768
"""Java writes blocks of 32 KiB; of 1 KiB at least. An empty block takes four bytes and 1 µs."""
_NO_ROOM = "failed to write whole buffer"
"""Rust's message for a full writer. cramjam has one exception for all errors, so the text tells them apart."""
_SMALL_BYTES = 4_096
_SMALL_ROOM_BYTES = 65_536
"""Tried first for a packed batch of at most `_SMALL_BYTES`: a
mapping and its page faults cost 20 µs, more than the batch.
"""


class UnpackError(Exception):
    """The bytes are not valid output of their codec."""


class TooLargeError(UnpackError):
    """The batch unpacks to more than the limit. The real size is known for snappy only."""


def unpack(codec: int, packed: memoryview, prefix: bytes, bytes_max: int) -> memoryview:
    """`prefix`, followed by the unpacked bytes of `packed`, which may be `bytes_max` at most.

    :raises UnpackError: the bytes are damaged, or the codec is unknown.
    :raises TooLargeError: they unpack to more.
    """
    if codec == SNAPPY:
        return _snappy(bytes(packed), prefix, bytes_max)
    if codec not in _STREAMED:
        raise UnpackError(f"compression codec {codec} is unknown")
    data = bytes(packed)
    if len(data) <= _SMALL_BYTES and bytes_max > _SMALL_ROOM_BYTES:
        try:
            return _into(memoryview(bytearray(len(prefix) + _SMALL_ROOM_BYTES)), codec, data, prefix)
        except TooLargeError:
            pass
    return _into(memoryview(mmap.mmap(-1, len(prefix) + bytes_max)), codec, data, prefix)


def _into(room: memoryview, codec: int, data: bytes, prefix: bytes) -> memoryview:
    at = len(prefix)
    try:
        size = _STREAMED[codec](data, room[at:])
    except cramjam.DecompressionError as error:
        if _NO_ROOM in str(error):
            raise TooLargeError(f"{NAMES[codec]}: unpacks to more than {len(room) - at} bytes") from None
        raise UnpackError(f"{NAMES[codec]}: {error}") from None
    room[:at] = prefix
    return room[: at + size]


def _snappy(packed: bytes, prefix: bytes, bytes_max: int) -> memoryview:
    """Each block declares its size, so the limit is checked before unpacking."""
    blocks = _xerial_blocks(packed) if packed.startswith(_XERIAL) else [packed]
    try:
        sizes = [cramjam.snappy.decompress_raw_len(block) for block in blocks]
        if sum(sizes) > bytes_max:
            raise TooLargeError(f"snappy: unpacks to {sum(sizes)} bytes; the limit is {bytes_max}")
        room = memoryview(bytearray(len(prefix) + sum(sizes)))
        room[: len(prefix)] = prefix
        at = len(prefix)
        for block, size in zip(blocks, sizes, strict=True):
            if size:  # cramjam refuses an empty output buffer
                at += cramjam.snappy.decompress_raw_into(block, room[at : at + size])
    except cramjam.DecompressionError as error:
        raise UnpackError(f"snappy: {error}") from None
    if at != len(room):
        raise UnpackError("snappy: a block is shorter than it declares")
    return room


def _xerial_blocks(packed: bytes) -> list[bytes]:
    blocks: list[bytes] = []
    at = _XERIAL_BYTES
    while at < len(packed):
        if at + _BLOCK.size > len(packed):
            raise UnpackError("snappy: truncated between two blocks")
        (size,) = _BLOCK.unpack_from(packed, at)
        at += _BLOCK.size
        if len(blocks) == _BLOCKS_MAX:
            raise TooLargeError(f"snappy: more than {_BLOCKS_MAX} blocks")
        if size < 0 or at + size > len(packed):
            raise UnpackError(f"snappy: a block of {size} bytes, but {len(packed) - at} are left")
        blocks.append(packed[at : at + size])
        at += size
    return blocks
