"""Requests to an S3 bucket or an Azure container. The only module that uses obstore."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, S3Store

from backstop.runtime.bucket_requests import (
    BACKOFF_S,
    BACKOFF_S_MAX,
    CONNECT_S,
    REQUEST_S,
    RETRY_S,
    USUAL,
    BucketAddress,
    BucketRequestError,
    ObjectVersion,
    Patience,
    Trouble,
)

if TYPE_CHECKING:
    from obstore.store import AzureConfig, ClientConfig, RetryConfig, S3Config

_SIGNS: Final[tuple[tuple[Trouble, tuple[str, ...]], ...]] = (
    ("clock", ("RequestTimeTooSkewed",)),
    ("region", ("AuthorizationHeaderMalformed", "PermanentRedirect", "incorrectly configured region")),
    ("no_bucket", ("NoSuchBucket", "ContainerNotFound")),
    ("throttled", ("SlowDown", "429 Too Many", "503 Service", "ServiceUnavailable", "TooManyRequests")),
    ("denied", ("ExpiredToken", "InvalidToken", "403 Forbidden", "401 Unauthorized", "redential")),
    ("unreachable", ("error sending request", "HTTP error", "timed out")),
)
_WORDS: Final = re.compile(r"<(?:Code|Message)>([^<]{1,300})")


class ObstoreRequests:
    """See `BucketRequests`."""

    def __init__(self, store: S3Store | AzureStore) -> None:
        self._store = store

    async def put(self, key: str, data: bytes | memoryview, *, create: bool) -> bool:
        mode: Literal["create", "overwrite"] = "create" if create else "overwrite"
        try:
            with _classified():
                await obstore.put_async(self._store, key, data, mode=mode, use_multipart=False)
        except AlreadyExistsError as error:
            if create:
                return False
            raise _error("failed", error) from error  # 409, a conflicting request: it was not written
        except FileNotFoundError as error:  # a put can miss only the bucket
            raise _error("no_bucket", error) from error
        return True

    async def get(self, key: str, announced: Callable[[int], None]) -> memoryview:
        with _no_conflict(), _classified():
            found = await obstore.get_async(self._store, key)
            announced(found.meta["size"])
            return memoryview(await found.bytes_async())

    async def version(self, key: str) -> ObjectVersion:
        """The answer ends with this call: MinIO removes nothing of which it still sends bytes."""
        with _no_conflict(), _classified():
            found = await obstore.get_async(self._store, key)
            return ObjectVersion(found.meta["last_modified"].timestamp() * 1000)

    async def delete(self, key: str, version: ObjectVersion) -> bool:  # noqa: ARG002 - S3 has no such condition
        with _no_conflict(), _classified():
            await obstore.delete_async(self._store, key)
        return True

    async def close(self) -> None:
        """Nothing to do: the client keeps its connections outside of Python."""


def s3_requests(address: BucketAddress, patience: Patience = USUAL) -> ObstoreRequests:
    """What is set here stands above the variables of AWS, which may be meant for other programs. AWS_SESSION_TOKEN is
    sent with our key, too: an empty token here would be sent as one.
    """
    # Not every store has DeleteObjects.
    config: S3Config = {"conditional_put": "etag", "disable_bulk_delete": True}
    if address.endpoint is not None:
        config["aws_endpoint_url_s3"] = address.endpoint  # `endpoint` is overruled by AWS_ENDPOINT_URL_S3
    if address.region is not None:
        config["region"] = address.region
    if address.key_id is not None and address.secret_key is not None:
        config["access_key_id"] = address.key_id
        config["secret_access_key"] = address.secret_key.get_secret_value()
        config["skip_signature"] = False
    return ObstoreRequests(
        S3Store(
            address.name, prefix=_below(address), config=config,
            client_options=_client(address), retry_config=_retry(patience),
        )
    )  # fmt: skip


def azure_requests(address: BucketAddress, patience: Patience = USUAL) -> ObstoreRequests:
    """As `s3_requests`; the key's id is the account."""
    config: AzureConfig = {}
    if address.endpoint is not None:
        config["endpoint"] = address.endpoint
    if address.key_id is not None and address.secret_key is not None:
        config["account_name"] = address.key_id
        config["account_key"] = address.secret_key.get_secret_value()
    return ObstoreRequests(
        AzureStore(
            address.name, prefix=_below(address), config=config,
            client_options=_client(address), retry_config=_retry(patience),
        )
    )  # fmt: skip


def _below(address: BucketAddress) -> str | None:
    return address.prefix.strip("/") or None


def _client(address: BucketAddress) -> "ClientConfig":
    return {
        "allow_http": address.endpoint is not None and address.endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "timeout": timedelta(seconds=REQUEST_S),
    }


def _retry(patience: Patience) -> "RetryConfig":
    return {
        "max_retries": patience.tries_again_max,
        "retry_timeout": timedelta(seconds=RETRY_S),
        "backoff": {
            "init_backoff": timedelta(seconds=BACKOFF_S),
            "max_backoff": timedelta(seconds=BACKOFF_S_MAX),
            "base": 2,
        },
    }


@contextmanager
def _classified() -> Iterator[None]:
    """Errors of obstore as `BucketRequestError`, but for those that tell what is or is not there."""
    try:
        yield
    except AlreadyExistsError:
        raise
    except FileNotFoundError as error:
        if _trouble_of(error) == "no_bucket":
            raise _error("no_bucket", error) from error
        if "<Code>" not in _said(error):  # the 404 of a proxy, or of another server
            raise _error("unreachable", error) from error
        raise
    except (BaseError, OSError, ValueError) as error:
        raise _error(_trouble_of(error), error) from error


@contextmanager
def _no_conflict() -> Iterator[None]:
    try:
        yield
    except AlreadyExistsError as error:  # a 409
        raise _error("failed", error) from error


def _error(trouble: Trouble, error: Exception) -> BucketRequestError:
    first_line = str(error).partition("\n")[0][:300]
    return BucketRequestError(trouble, "; ".join((first_line, *_WORDS.findall(_said(error))[:2])))


def _trouble_of(error: Exception) -> Trouble:
    text = _said(error)
    refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    other: Trouble = "denied" if refused else "failed"
    return next((trouble for trouble, signs in _SIGNS if any(sign in text for sign in signs)), other)


def _said(error: Exception) -> str:
    return str(error).partition("Debug source")[0]  # the rest quotes settings of the client
