"""Unpacks an answer, gzip or deflate. Its first bytes decide, as servers announce a packing that is none, and pack
without an announcement. Pure.

One layer is unpacked, whatever is announced: 2 KB packed three times unpack to gigabytes of empty blocks of the last
layer, hours of work without one byte that a limit could count. No server has a reason to pack an answer twice.
"""

import zlib
from collections.abc import Iterator
from typing import Final

CODINGS: Final = "gzip, deflate"
"""What is asked for."""
PIECE_BYTES_MAX: Final = 1 << 20
MEMBERS_MAX: Final = 1_000
"""Of one answer: each may be empty."""

_GZIP, _ZLIB, _BARE = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS
_GZIP_BEGINS: Final = b"\x1f\x8b"
_TEXT_BEGINS: Final = frozenset(b' \t\r\n{["<)\xef\xfe\xff\x00')


def packing_of(begins: bytes, announced: str) -> int | None:
    """How an answer is packed that begins with these bytes; None if it is not.

    :param announced: the values of its `Content-Encoding`.
    """
    if begins.startswith(_GZIP_BEGINS):
        return _GZIP
    if len(begins) > 1 and begins[0] == 0x78 and int.from_bytes(begins[:2]) % 31 == 0:
        return _ZLIB
    return _BARE if "deflate" in announced.lower() and begins and begins[0] not in _TEXT_BEGINS else None


class Unpacker:
    """Unpacks pieces of an answer. What is no such packing behind its beginning is left out."""

    def __init__(self, packing: int) -> None:
        self._packing = packing
        self._member = zlib.decompressobj(packing)
        self._members = 1
        self._left = b""
        self._over = False

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """What a piece holds, in pieces of at most `PIECE_BYTES_MAX`."""
        self._left += packed
        unpacked = b""
        while not self._over and (self._left or len(unpacked) == PIECE_BYTES_MAX):
            if self._member.eof and not self._next_member():
                return
            try:
                unpacked = self._member.decompress(self._left, PIECE_BYTES_MAX)
            except zlib.error:
                self._over = True
                return
            self._left = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if unpacked:
                yield unpacked

    def _next_member(self) -> bool:
        """Whether another member begins in what is left."""
        if len(self._left) < len(_GZIP_BEGINS):
            return False
        self._over = not self._left.startswith(_GZIP_BEGINS) or self._packing != _GZIP or self._members >= MEMBERS_MAX
        self._member = zlib.decompressobj(self._packing)
        self._members += 1
        return not self._over
