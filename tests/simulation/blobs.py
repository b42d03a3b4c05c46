"""A blob store in memory, shared by all lives: what was put is durable."""

from backstop.runtime.errors import BlobMissingError
from schemas.codec import sha256_hex


class MemoryBlobs:
    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    async def put(self, data: bytes | memoryview) -> str:
        sha256 = sha256_hex(data)
        self._data[sha256] = bytes(data)
        return sha256

    async def get(self, sha256: str) -> bytes:
        try:
            return self._data[sha256]
        except KeyError as error:
            raise BlobMissingError(sha256) from error

    async def has(self, mark: bytes) -> bool:
        return sha256_hex(mark) in self._data
