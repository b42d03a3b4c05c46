"""Bodies encrypted at rest: a blob store over another one, with keys for each tenant (AES-256-GCM).

- A body is encrypted with the first key of its tenant, or of `default` where the tenant has none. The blob says by
  which key, so reading asks for no tenant, and older keys of a tenant still read what they wrote.
- Equal bodies of one tenant give equal bytes under one name, so that a repeated put changes nothing: the nonce is a
  keyed hash of the name, which holds tenant and body. Different tenants never share a blob, nor a nonce: with one key
  for both, equal nonces would let the authentication be forged.
- The name is authenticated with the content: a blob that was put in another one's place does not decrypt.
- A body that was stored before there were keys is read as it is. Marks hold no content, and stay readable.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from backstop.runtime.blobs import BlobsPerTenant, Removal, is_mark, name_with_keys
from backstop.runtime.errors import BlobMissingError, ConfigurationError
from schemas.base import DEFAULT_TENANT
from schemas.codec import sha256_hex

MAGIC: Final = b"\x00backstop sealed 1\n"
"""No JSON begins so."""
KEY_BYTES: Final = 32
ID_CHARS: Final = 12
NONCE_BYTES: Final = 12
APART_BYTES: Final = 65_536
"""Larger bodies are encrypted on a thread."""


T = TypeVar("T")


class NamedBlobs(Protocol):
    """A store of blobs under names that are no hashes of their content."""

    async def put_as(self, name: str, data: bytes | memoryview) -> None:
        """As `BlobStore.put`, under this name of 64 hex digits."""

    async def get_as_it_is(self, name: str) -> bytes | memoryview:
        """As `BlobStore.get`, without a check of the content."""

    async def put(self, data: bytes | memoryview) -> str: ...
    async def has(self, mark: bytes) -> bool: ...
    async def remove(self, sha256: str, before_ms: int) -> Removal: ...


@dataclass(frozen=True, slots=True)
class PayloadKey:
    tenant: str
    id: str
    seals: AESGCM
    nonces: bytes = field(repr=False)

    def nonce(self, name: str) -> bytes:
        return hmac.digest(self.nonces, name.encode(), "sha256")[:NONCE_BYTES]


def payload_keys(given: str) -> dict[str, list[PayloadKey]]:
    """The keys of `BACKSTOP_PAYLOAD_KEYS` by tenant, in their order: `default:BASE64,acme:BASE64`.

    :raises ConfigurationError: not of this form, or none of `default`. The message holds nothing of a key.
    """
    found: dict[str, list[PayloadKey]] = {}
    for number, line in enumerate(filter(None, (part.strip() for part in given.split(","))), start=1):
        tenant, _, encoded = line.partition(":")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raw = b""
        if not tenant or len(raw) != KEY_BYTES:
            raise ConfigurationError(
                f"BACKSTOP_PAYLOAD_KEYS, key {number}: write TENANT:KEY with {KEY_BYTES} bytes in base64; "
                f"`openssl rand -base64 {KEY_BYTES}` makes a key"
            )
        key_id = hashlib.sha256(b"payload key id\n" + raw).hexdigest()[:ID_CHARS]
        nonces = hmac.digest(raw, b"payload nonces", "sha256")
        found.setdefault(tenant, []).append(PayloadKey(tenant, key_id, AESGCM(raw), nonces))
    if DEFAULT_TENANT not in found:
        raise ConfigurationError(f"BACKSTOP_PAYLOAD_KEYS has no key of `{DEFAULT_TENANT}`, which others fall back to")
    return found


class EncryptedBlobs(BlobsPerTenant):
    """See the module, and `BlobStore`."""

    def __init__(
        self, stored: NamedBlobs, keys: Mapping[str, Sequence[PayloadKey]], tenant: str = DEFAULT_TENANT
    ) -> None:  # fmt: skip
        self._stored = stored
        self._keys = keys
        self._tenant = tenant
        self._by_id = {key.id: key for of_tenant in keys.values() for key in of_tenant}

    def of(self, tenant: str) -> "EncryptedBlobs":
        """The same store; what is put there is this tenant's."""
        return self if tenant == self._tenant else EncryptedBlobs(self._stored, self._keys, tenant)

    def name_of(self, tenant: str, sha256: str) -> str:
        """The name of the tenant's body with this hash."""
        return name_with_keys(tenant, sha256)

    async def put(self, data: bytes | memoryview) -> str:
        if is_mark(data, len(data)):
            return await self._stored.put(data)
        name, sealed = await _apart(len(data), partial(self._seal, data))
        await self._stored.put_as(name, sealed)
        return name

    async def get(self, sha256: str) -> bytes | memoryview:
        data = await self._stored.get_as_it_is(sha256)
        if bytes(data[: len(MAGIC)]) == MAGIC:
            return await _apart(len(data), partial(self._unseal, sha256, data))
        if await asyncio.to_thread(sha256_hex, data) != sha256:
            raise BlobMissingError(f"blob {sha256}: the content has another hash; restore it from a copy")
        return data

    async def has(self, mark: bytes) -> bool:
        return await self._stored.has(mark)

    async def remove(self, sha256: str, before_ms: int) -> Removal:
        return await self._stored.remove(sha256, before_ms)

    def _seal(self, data: bytes | memoryview) -> tuple[str, bytes]:
        name = self.name_of(self._tenant, sha256_hex(data))
        key = (self._keys.get(self._tenant) or self._keys[DEFAULT_TENANT])[0]
        head, nonce = MAGIC + f"{key.tenant}:{key.id}\n".encode(), key.nonce(name)
        return name, head + nonce + key.seals.encrypt(nonce, bytes(data), head + name.encode())

    def _unseal(self, name: str, sealed: bytes | memoryview) -> bytes:
        try:
            return self._opened(name, bytes(sealed))
        except (InvalidTag, ValueError):  # ValueError: it was cut within its head or its nonce
            raise BlobMissingError(f"blob {name}: its content was altered; restore it from a copy") from None

    def _opened(self, name: str, data: bytes) -> bytes:
        end = data.index(b"\n", len(MAGIC)) + 1
        tenant, _, key_id = data[len(MAGIC) : end - 1].decode().partition(":")
        key = self._by_id.get(key_id)
        if key is None:
            raise BlobMissingError(
                f"blob {name}: it is encrypted with the key {key_id} of tenant {tenant}, which BACKSTOP_PAYLOAD_KEYS "
                "does not have: give it back, or the data are gone"
            )
        return key.seals.decrypt(data[end : end + NONCE_BYTES], data[end + NONCE_BYTES :], data[:end] + name.encode())


async def _apart(size_bytes: int, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if size_bytes > APART_BYTES else work()
