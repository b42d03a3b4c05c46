"""Bodies and claims in an S3 bucket or an Azure container. The only module that uses obstore.

Each put writes the whole body under its hash: the store makes it atomic, it resets the body's age (so a lifecycle rule
spares a body that is referred to again), and no check is needed first. Bodies, marks (`MARK`) and claims have their own
prefixes, because lifecycle rules select by prefix: `bodies/`, `marks/`, `claims/`. A claim is a conditional put
(`If-None-Match: *`).
"""

import asyncio
import re
from collections.abc import Awaitable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, S3Store
from pydantic import SecretStr

from backstop.runtime.blobs import Removal, is_mark
from backstop.runtime.errors import BlobMissingError, BlobStoreError
from backstop.runtime.process.clock import NowMs, make_clock, monotonic_s
from backstop.runtime.process.logs import get_logger
from schemas.codec import sha256_hex

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import AzureConfig, ClientConfig, RetryConfig, S3Config

CONNECT_S: Final = 3.0
REQUEST_S: Final = 60.0
"""Per try, body included: 64 MiB at 10 Mbit/s take 54 s."""
TRIES_AGAIN_MAX: Final = 2
RETRY_S: Final = 10.0
"""After this time no further try begins."""
ANSWER_S: Final = 15.0
"""All tries together, and a second more for each of `BYTES_PER_S` that are sent or read: 10 Mbit/s."""
BYTES_PER_S: Final = 1_250_000
OBJECT_BYTES_MAX: Final = 1 << 30
"""The largest answer of the provider that a setting allows. A read allocates what the store's answer announces."""
CLAIM_S: Final = 2.0
PROBE_S: Final = 10.0
PROBE: Final = "probe"
YOUNG_MS: Final = 3_600_000
"""A body that was put within this time need not be put again: lifecycle rules count days."""
HASH_CHARS: Final = 64

Trouble = Literal["clock", "region", "denied", "no_bucket", "throttled", "unreachable", "failed"]

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
_SIGNS: Final[tuple[tuple[Trouble, tuple[str, ...]], ...]] = (
    ("clock", ("RequestTimeTooSkewed",)),
    ("region", ("AuthorizationHeaderMalformed", "PermanentRedirect", "incorrectly configured region")),
    ("no_bucket", ("NoSuchBucket", "ContainerNotFound")),
    ("throttled", ("SlowDown", "429 Too Many", "503 Service", "ServiceUnavailable", "TooManyRequests")),
    ("denied", ("ExpiredToken", "InvalidToken", "403 Forbidden", "401 Unauthorized", "redential")),
    ("unreachable", ("error sending request", "HTTP error", "timed out")),
)
_WORDS: Final = re.compile(r"<(?:Code|Message)>([^<]{1,300})")

Done = TypeVar("Done")

log = get_logger("backstop.runtime.bucket")


def trouble_of(error: Exception) -> Trouble:
    """The kind of a store's error, by the party that must act."""
    text = _said(error)
    refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    other: Trouble = "denied" if refused else "failed"
    return next((trouble for trouble, signs in _SIGNS if any(sign in text for sign in signs)), other)


def _said(error: Exception) -> str:
    return str(error).partition("Debug source")[0]  # the rest quotes settings of the client


class ThrottledError(BlobStoreError):
    """The bucket asks for fewer requests."""


class Patience(NamedTuple):
    """How often a request is repeated, and how long its answer is waited for, without the time of its bytes."""

    tries_again_max: int = TRIES_AGAIN_MAX
    answer_s: float = ANSWER_S


USUAL: Final = Patience()


class BucketClient:
    """Sends requests to the store, classifies its errors, and keeps the latest for the readiness probe."""

    def __init__(
        self, bucket: str, prefix: str, *, endpoint: str | None = None, region: str | None = None,
        key_id: str | None = None, secret_key: SecretStr | None = None, azure: bool = False,
        patience: Patience = USUAL, now_ms: NowMs | None = None,
    ) -> None:  # fmt: skip
        below = prefix.strip("/") or None
        client: ClientConfig = {
            "allow_http": endpoint is not None and endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "timeout": timedelta(seconds=REQUEST_S),
        }
        retry: RetryConfig = {
            "max_retries": patience.tries_again_max,
            "retry_timeout": timedelta(seconds=RETRY_S),
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
        }
        self.store: S3Store | AzureStore
        if azure:
            config = _azure(endpoint, key_id, secret_key)
            self.store = AzureStore(bucket, prefix=below, config=config, client_options=client, retry_config=retry)
        else:
            s3 = _s3(endpoint, region, key_id, secret_key)
            self.store = S3Store(bucket, prefix=below, config=s3, client_options=client, retry_config=retry)
        self._answer_s = patience.answer_s
        self._now_ms = make_clock() if now_ms is None else now_ms
        self._troubles: dict[str, tuple[Trouble, float]] = {}
        """The latest failure by operation (get, put), with its time. A success removes it."""

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
        mode: Literal["create", "overwrite"] = "create" if create else "overwrite"
        putting = obstore.put_async(self.store, key, data, mode=mode, use_multipart=False)
        try:
            await self._asked("put", putting, len(data))
        except AlreadyExistsError as error:
            if create:
                return False
            raise self._failed("put", "failed", error) from error  # 409, a conflicting request: it was not written
        except FileNotFoundError as error:  # a put can miss only the bucket
            raise self._failed("put", "no_bucket" if _is_of_the_store(error) else "unreachable", error) from error
        return True

    async def get(self, key: str) -> memoryview:
        """:raises FileNotFoundError: the key does not exist.
        :raises BlobStoreError: the outcome is unknown.
        """
        found = await self._found(key)
        size_bytes = found.meta["size"]
        if size_bytes > OBJECT_BYTES_MAX:
            raise self._failed("get", "failed", ValueError(f"{size_bytes} bytes announced, {OBJECT_BYTES_MAX} allowed"))
        return memoryview(await self._asked("get", found.bytes_async(), size_bytes))

    async def remove(self, key: str, before_ms: int) -> Removal:
        """Delete a key, unless it was put at `before_ms` or later. S3 has no removal on a condition: a put in between
        is lost, so `before_ms` must be some seconds ago where others may put.

        :raises BlobStoreError: it may still be there.
        """
        try:
            if await self._put_ms(key) >= before_ms:
                return "recent"
            await self._asked("delete", obstore.delete_async(self.store, key), 0)
        except FileNotFoundError:
            return "absent"
        return "removed"

    async def has_young(self, key: str) -> bool:
        """Whether it was put within `YOUNG_MS`: what a refused put was for is then done.

        :raises BlobStoreError: the outcome is unknown.
        """
        try:
            young = self._now_ms() - await self._put_ms(key) <= YOUNG_MS
        except FileNotFoundError:
            return False
        if young:
            self._troubles.pop("put", None)
        return young

    async def _put_ms(self, key: str) -> float:
        """When it was put. The answer ends with this call: MinIO removes nothing of which it still sends bytes."""
        return (await self._found(key)).meta["last_modified"].timestamp() * 1000

    async def _found(self, key: str) -> "GetResult":
        """What is there, whose bytes are not read yet. Errors: see `get`."""
        try:
            return await self._asked("get", obstore.get_async(self.store, key), 0)
        except AlreadyExistsError as error:  # a 409
            raise self._failed("get", "failed", error) from error
        except FileNotFoundError as error:
            if trouble_of(error) == "no_bucket":
                raise self._failed("get", "no_bucket", error) from error
            if not _is_of_the_store(error):
                raise self._failed("get", "unreachable", error) from error
            self._troubles.pop("get", None)
            raise

    async def _asked(self, what: str, asking: Awaitable[Done], size_bytes: int) -> Done:
        try:
            async with asyncio.timeout(self._answer_s + size_bytes / BYTES_PER_S):
                done = await asking
        except (AlreadyExistsError, FileNotFoundError):
            raise
        except TimeoutError as error:
            raise self._failed(what, "unreachable", TimeoutError("no answer in time")) from error
        except (BaseError, OSError, ValueError) as error:
            raise self._failed(what, trouble_of(error), error) from error
        self._troubles.pop(what, None)
        return done

    def _failed(self, what: str, trouble: Trouble, error: Exception) -> BlobStoreError:
        self._troubles[what] = (trouble, monotonic_s())
        first_line = str(error).partition("\n")[0][:300]
        told = "; ".join((first_line, *_WORDS.findall(_said(error))[:2]))
        kind = ThrottledError if trouble == "throttled" else BlobStoreError
        return kind(f"{what}: {SENTENCES[trouble]} ({told})")


def _is_of_the_store(missing: FileNotFoundError) -> bool:
    """Whether the store says what is missing. Else it is the 404 of a proxy, or of another server."""
    return "<Code>" in _said(missing)


def _s3(endpoint: str | None, region: str | None, key_id: str | None, secret_key: SecretStr | None) -> "S3Config":
    """What is set here stands above the variables of AWS, which may be meant for other programs. AWS_SESSION_TOKEN is
    sent with our key, too: an empty token here would be sent as one.
    """
    # Not every store has DeleteObjects.
    config: S3Config = {"conditional_put": "etag", "disable_bulk_delete": True}
    if endpoint is not None:
        config["aws_endpoint_url_s3"] = endpoint  # `endpoint` is overruled by AWS_ENDPOINT_URL_S3
    if region is not None:
        config["region"] = region
    if key_id is not None and secret_key is not None:
        config["access_key_id"] = key_id
        config["secret_access_key"] = secret_key.get_secret_value()
        config["skip_signature"] = False
    return config


def _azure(endpoint: str | None, account: str | None, secret_key: SecretStr | None) -> "AzureConfig":
    config: AzureConfig = {}
    if endpoint is not None:
        config["endpoint"] = endpoint
    if account is not None and secret_key is not None:
        config["account_name"] = account
        config["account_key"] = secret_key.get_secret_value()
    return config


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
