"""Bodies and claims in a bucket: of S3, Azure or Google Cloud Storage.

Each put writes the whole body under its hash: the store makes it atomic, it resets the body's age (so a lifecycle rule
spares a body that is referred to again), and no check is needed first. Bodies, marks (`MARK`) and claims have their own
prefixes, because lifecycle rules select by prefix: `bodies/`, `marks/`, `claims/`. A claim is a conditional put: a
create that fails where the key exists.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from backstop.runtime.blobs import Removal, is_mark
from backstop.runtime.bucket_requests import (
    ANSWER_S,
    BYTES_PER_S,
    BucketRequestError,
    BucketRequests,
    ObjectVersion,
    Trouble,
)
from backstop.runtime.errors import BlobMissingError, BlobStoreError
from backstop.runtime.process.clock import NowMs, make_clock, monotonic_s
from backstop.runtime.process.logs import get_logger
from schemas.codec import sha256_hex

OBJECT_BYTES_MAX: Final = 1 << 30
"""The largest answer of the provider that a setting allows. A read allocates what the store's answer announces."""
CLAIM_S: Final = 2.0
PROBE_S: Final = 10.0
PROBE: Final = "probe"
YOUNG_MS: Final = 3_600_000
"""A body that was put within this time need not be put again: lifecycle rules count days."""
HASH_CHARS: Final = 64

SENTENCES: Final[dict[Trouble, str]] = {
    "clock": "the bucket refuses requests of this time: set this machine's clock",
    "region": "the bucket is in another region: correct BACKSTOP_BLOBS_REGION",
    "denied": "the bucket refuses this key: check BACKSTOP_BLOBS_KEY_ID, its secret, and that it may get, put and list "
    "(and delete, for erasures)",
    "no_bucket": "the bucket does not exist: make it, or correct BACKSTOP_BLOBS",
    "throttled": "the bucket asks for fewer requests",
    "unreachable": "the bucket can't be reached: check BACKSTOP_BLOBS_ENDPOINT and the network",
    "failed": "the bucket answers with an error; the log names it",
}

log = get_logger("backstop.runtime.bucket")


class ThrottledError(BlobStoreError):
    """The bucket asks for fewer requests."""


class BucketClient:
    """Sends requests to the store in time, and keeps the latest errors for the readiness probe."""

    def __init__(
        self, requests: BucketRequests, *, answer_s: float = ANSWER_S, now_ms: NowMs | None = None
    ) -> None:  # fmt: skip
        self._requests = requests
        self._answer_s = answer_s
        self._now_ms = make_clock() if now_ms is None else now_ms
        self._troubles: dict[str, tuple[Trouble, float]] = {}
        """The latest failure by operation (get, put), with its time. A success removes it."""

    async def close(self) -> None:
        """Close its connections. To be awaited in the loop that used them."""
        await self._requests.close()

    def complaint(self) -> str | None:
        """For `/readyz`, which is public: a sentence without the store's own text."""
        now_s = monotonic_s()
        # An old failed put says nothing: without traffic no later put would clear it.
        said = [trouble for trouble, at_s in self._troubles.values() if now_s - at_s <= 3 * PROBE_S]
        return SENTENCES[said[0]] if said else None

    async def probe_for_ever(self) -> None:
        """Request a key that need not exist, so that failures and recovery are noticed without traffic."""
        while True:
            try:
                await self.get(PROBE)
            except FileNotFoundError:
                pass
            except BlobStoreError as error:
                log.warning("blob_store_trouble", reason=str(error))
            await asyncio.sleep(PROBE_S)

    async def put(self, key: str, data: bytes | memoryview, *, create: bool = False) -> bool:
        """Whether the data was written; with `create`, False if the key exists already.

        :raises ThrottledError: it was not written.
        :raises BlobStoreError: it was not written, or the outcome is unknown.
        """
        async with self._answered("put", len(data)):
            return await self._requests.put(key, data, create=create)

    async def get(self, key: str) -> memoryview:
        """:raises FileNotFoundError: the key does not exist.
        :raises BlobStoreError: the outcome is unknown.
        """
        async with self._answered("get") as limit:

            def announced(size_bytes: int) -> None:
                if size_bytes > OBJECT_BYTES_MAX:
                    told = f"{size_bytes} bytes announced, {OBJECT_BYTES_MAX} allowed"
                    raise BucketRequestError("failed", told)
                limit.reschedule(asyncio.get_running_loop().time() + self._answer_s + size_bytes / BYTES_PER_S)

            return await self._requests.get(key, announced)

    async def remove(self, key: str, before_ms: int) -> Removal:
        """Delete a key, unless it was put at `before_ms` or later. S3 and Azure have no removal on a condition: a put
        in between is lost, so `before_ms` must be some seconds ago where others may put.

        :raises BlobStoreError: it may still be there.
        """
        try:
            version = await self._version(key)
            if version.put_ms >= before_ms:
                return "recent"
            async with self._answered("delete"):
                return "removed" if await self._requests.delete(key, version) else "recent"
        except FileNotFoundError:
            return "absent"

    async def has_young(self, key: str) -> bool:
        """Whether it was put within `YOUNG_MS`: what a refused put was for is then done.

        :raises BlobStoreError: the outcome is unknown.
        """
        try:
            young = self._now_ms() - (await self._version(key)).put_ms <= YOUNG_MS
        except FileNotFoundError:
            return False
        if young:
            self._troubles.pop("put", None)
        return young

    async def _version(self, key: str) -> ObjectVersion:
        async with self._answered("get"):
            return await self._requests.version(key)

    @asynccontextmanager
    async def _answered(self, what: str, size_bytes: int = 0) -> AsyncIterator[asyncio.Timeout]:
        """A request within its time. A missing key is an answer, too: the store works."""
        try:
            async with asyncio.timeout(self._answer_s + size_bytes / BYTES_PER_S) as limit:
                yield limit
        except TimeoutError as error:
            raise self._failed(what, "unreachable", "no answer in time") from error
        except BucketRequestError as error:
            raise self._failed(what, error.trouble, str(error)) from error
        except FileNotFoundError:
            self._troubles.pop(what, None)
            raise
        self._troubles.pop(what, None)

    def _failed(self, what: str, trouble: Trouble, told: str) -> BlobStoreError:
        self._troubles[what] = (trouble, monotonic_s())
        kind = ThrottledError if trouble == "throttled" else BlobStoreError
        return kind(f"{what}: {SENTENCES[trouble]} ({told})")


class BucketBlobs:
    """See `BlobStore`."""

    def __init__(self, bucket: BucketClient) -> None:
        self._bucket = bucket

    async def put(self, data: bytes | memoryview) -> str:
        sha256 = await asyncio.to_thread(sha256_hex, data)
        place = "marks" if is_mark(data, len(data)) else "bodies"
        await self._put(_key(place, sha256), data)
        return sha256

    async def put_as(self, name: str, data: bytes | memoryview) -> None:
        await self._put(_key("bodies", name), data)

    async def _put(self, key: str, data: bytes | memoryview) -> None:
        """R2 and Google take one write a second of one name: of equal bodies at one time, the first is stored."""
        try:
            await self._bucket.put(key, data)
        except ThrottledError:
            if not await self._bucket.has_young(key):
                raise

    async def get_as_it_is(self, name: str) -> memoryview:
        try:
            return await self._get(name)
        except FileNotFoundError as error:
            raise BlobMissingError(f"blob {name}: not in the bucket") from error

    async def get(self, sha256: str) -> memoryview:
        data = await self.get_as_it_is(sha256)
        if await asyncio.to_thread(sha256_hex, data) != sha256:
            raise BlobMissingError(f"blob {sha256}: the content has another hash; restore it from a copy")
        return data

    async def _get(self, sha256: str) -> memoryview:
        try:
            return await self._bucket.get(_key("bodies", sha256))
        except FileNotFoundError:
            return await self._bucket.get(_key("marks", sha256))  # a small body that begins like a mark

    async def remove(self, sha256: str, before_ms: int) -> Removal:
        return await self._bucket.remove(_key("bodies", sha256), before_ms)

    async def has(self, mark: bytes) -> bool:
        try:
            return await self._bucket.get(_key("marks", sha256_hex(mark))) == mark
        except FileNotFoundError:
            return False


class BucketClaims:
    """See `Claims`."""

    def __init__(self, bucket: BucketClient, within_s: float = CLAIM_S) -> None:
        self._bucket = bucket
        self._within_s = within_s

    async def claim(self, job_id: str, sha256: str) -> str | None:
        """As `Claims.claim`. None if the bucket fails or exceeds `within_s`: then the log alone decides."""
        key = _key("claims", sha256_hex(job_id.encode()))
        try:
            async with asyncio.timeout(self._within_s):
                with suppress(ThrottledError):  # as is a rival's at one time, whose claim is then there
                    if await self._bucket.put(key, sha256.encode(), create=True):
                        return sha256
                first = bytes(await self._bucket.get(key)).decode("ascii", "replace")
        except FileNotFoundError:  # it has just expired, or never was
            return None
        except (BlobStoreError, TimeoutError) as error:
            log.warning("claim_not_stored", job_id=job_id, reason=str(error) or "no answer in time")
            return None
        return first if len(first) == HASH_CHARS else sha256


def _key(place: str, sha256: str) -> str:
    return f"{place}/{sha256[:2]}/{sha256}"
