"""The blob store and claims that the settings name, with the background work they need."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backstop.runtime.blob_folders import own_folder
from backstop.runtime.blobs import BlobRemover, BlobStore, FolderBlobs
from backstop.runtime.bucket import BucketBlobs, BucketClaims, BucketClient
from backstop.runtime.bucket_requests import BucketAddress, BucketRequests
from backstop.runtime.claims import Claims, FolderClaims
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.process.chance import RandomHex
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.probes import Probe
from backstop.runtime.settings import BUCKET, RuntimeSettings
from backstop.runtime.unwrapped_keys import unwrapped
from schemas.codec import sha256_hex

if TYPE_CHECKING:
    from backstop.runtime.encrypted_blobs import EncryptedBlobs


@dataclass(frozen=True, slots=True)
class Storage:
    blobs: BlobStore
    claims: Claims
    remover: BlobRemover
    """Removes what was stored in `blobs`."""
    complaint: Probe
    """For `/readyz`."""
    close: Callable[[], Coroutine[None, None, None]]
    """Awaited once, in the loop that used the storage, after its last use."""
    sweeping: tuple[Callable[[NowMs], Coroutine[None, None, None]], ...] = ()
    """Run by one kind of process (`backstop serve`) until it is cancelled."""
    probing: tuple[Callable[[], Coroutine[None, None, None]], ...] = ()
    """Run by every process until it is cancelled: keeps `complaint` up to date."""


def open_storage(settings: RuntimeSettings) -> Storage:
    """The store and claims of the settings. Opens no connection.

    :raises ConfigurationError: the bucket's client is not installed, or its key is none.
    """
    named = BUCKET.fullmatch(settings.blobs) if settings.blobs is not None else None
    if named is None:
        return _folder(settings)
    address = BucketAddress(
        named["bucket"], named["prefix"] or "", settings.blobs_endpoint, settings.blobs_region,
        settings.blobs_key_id, settings.blobs_secret_key,
    )  # fmt: skip
    bucket = BucketClient(_requests(named["kind"], address))
    blobs = _encrypted(settings, BucketBlobs(bucket))
    claims = BucketClaims(bucket)
    return Storage(blobs, claims, blobs, bucket.complaint, bucket.close, probing=(bucket.probe_for_ever,))


def _requests(kind: str, address: BucketAddress) -> BucketRequests:
    """The provider's module is of an optional extra, and loaded only where it is configured.

    :raises ConfigurationError: see `open_storage`.
    """
    try:
        if kind == "gs":
            from backstop.runtime.bucket_google import google_requests  # noqa: PLC0415 - see above

            return google_requests(address)
        from backstop.runtime.bucket_obstore import azure_requests, s3_requests  # noqa: PLC0415 - see above

        return azure_requests(address) if kind == "az" else s3_requests(address)
    except ModuleNotFoundError as error:
        extra = "gcs" if kind == "gs" else "s3"
        raise ConfigurationError(
            f"BACKSTOP_BLOBS needs the package {error.name}: install backstop-jobs with its extra `{extra}`"
        ) from None


def store_id(settings: RuntimeSettings, random_hex: RandomHex) -> str | None:
    """The id by which processes recognise a shared store, 32 hex digits; None if its folder can't be written."""
    if settings.blobs is None or BUCKET.fullmatch(settings.blobs) is None:
        return own_folder(settings.blobs_path, random_hex)
    account = f" {settings.blobs_key_id}" if settings.blobs.startswith("az:") else ""
    return sha256_hex(f"{settings.blobs_endpoint or ''} {settings.blobs}{account}".encode())[:32]


def _folder(settings: RuntimeSettings) -> Storage:
    blobs, claims = FolderBlobs(settings.blobs_path), FolderClaims(settings.claims_path)
    sweeping: list[Callable[[NowMs], Coroutine[None, None, None]]] = [claims.sweep_for_ever]
    if settings.blob_keep_days:
        sweeping.append(lambda now_ms: blobs.sweep_for_ever(settings.blob_keep_ms, now_ms))
    stored = _encrypted(settings, blobs)
    return Storage(stored, claims, stored, lambda: None, _nothing_to_close, tuple(sweeping))


async def _nothing_to_close() -> None:
    """A folder has no connections."""


def _encrypted(
    settings: RuntimeSettings, blobs: FolderBlobs | BucketBlobs
) -> "FolderBlobs | BucketBlobs | EncryptedBlobs":
    if not settings.encrypts_payloads:
        return blobs
    try:
        from backstop.runtime.encrypted_blobs import (  # noqa: PLC0415 - an optional extra, as above
            EncryptedBlobs,
            payload_keys,
        )
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"BACKSTOP_PAYLOAD_KEYS needs the package {error.name}: install backstop-jobs with its extra `encryption`"
        ) from None
    keys = "" if settings.payload_keys is None else settings.payload_keys.get_secret_value()
    if settings.payload_keys_command is not None:
        keys = unwrapped(settings.payload_keys_command, keys)
    return EncryptedBlobs(blobs, payload_keys(keys))
