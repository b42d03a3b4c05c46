"""Reads the request of a create command, from the record or the blob store. A large one is read apart."""

from typing import Final

import structlog

from backstop.runtime.blobs import BlobStore, get_body, get_data
from backstop.runtime.errors import BlobMissingError, BlobStoreError
from schemas.base import BlobBody
from schemas.commands import CreateResponse
from streams.large_requests import BYTES_MAX, LargeRequest, LargeRequests
from streams.provider import Rejected
from streams.workers.metrics import WorkerMetrics

log = structlog.get_logger()

_NO_OBJECT: Final = Rejected("never", "not_an_object", "the request is no JSON object")


class RequestReader:
    def __init__(self, blobs: BlobStore, metrics: WorkerMetrics, large: LargeRequests) -> None:
        self._blobs = blobs
        self._metrics = metrics
        self._large_requests = large

    async def read(self, command: CreateResponse) -> LargeRequest | Rejected:
        """The request to send, or why it can't be sent now. Nothing was sent."""
        try:
            if isinstance(command.request, BlobBody) and command.request.size_bytes > BYTES_MAX:
                return await self._large(command, command.request)
            request = await get_body(self._blobs, command.request)
        except BlobMissingError as error:
            # An operator may restore the blob. A try costs nothing; `rejections_max` and the deadline bound the tries.
            self._metrics.alarm("blob_missing")
            log.error("request_unreadable", job_id=command.job_id, attempt=command.attempt, error=str(error))
            return Rejected("faulty", "blob_missing", "the stored request can't be read")
        except BlobStoreError as error:
            # The blob store failed: the job tries again after its wait.
            self._metrics.alarm("blob_store")
            log.error("blob_store_trouble", job_id=command.job_id, attempt=command.attempt, error=str(error))
            return Rejected("unsent", "blob_store_unavailable", "the blob store can't be used now")
        return LargeRequest(request, b"") if isinstance(request, dict) else _NO_OBJECT

    async def _large(self, command: CreateResponse, body: BlobBody) -> LargeRequest | Rejected:
        reading = self._large_requests.read(await get_data(self._blobs, body))  # the one that holds the data
        try:
            return await reading or _NO_OBJECT
        except OSError as error:  # no memory for a process, or its end
            log.error("large_request_not_read", job_id=command.job_id, attempt=command.attempt, error=str(error))
            return Rejected("unsent", "request_not_read", "the large request can't be read by this worker now")
