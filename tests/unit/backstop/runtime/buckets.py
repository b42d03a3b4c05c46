"""Clients of each provider for one test, closed in the loop that used them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from backstop.runtime.blob_stores import Storage
from backstop.runtime.bucket import BucketClient
from tests.unit.backstop.runtime.gcs_server import google_bucket
from tests.unit.backstop.runtime.s3_server import bucket

PROVIDERS: Final[dict[str, Callable[..., BucketClient]]] = {"s3": bucket, "google": google_bucket}


class Clients:
    def __init__(self, make: Callable[..., BucketClient]) -> None:
        self._make = make
        self._made: list[BucketClient] = []

    def __call__(self, endpoint: str, **named: Any) -> BucketClient:
        self._made.append(self._make(endpoint, **named))
        return self._made[-1]

    def run(self, story: Coroutine[Any, Any, None]) -> None:
        asyncio.run(self._closing(story))

    async def _closing(self, story: Coroutine[Any, Any, None]) -> None:
        try:
            await story
        finally:
            for client in self._made:
                await client.close()


def run(storage: Storage, story: Coroutine[Any, Any, None]) -> None:
    """Run `story`, and close the storage in the same loop."""

    async def closing() -> None:
        try:
            await story
        finally:
            await storage.close()

    asyncio.run(closing())
