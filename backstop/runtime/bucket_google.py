"""Requests to a bucket of Google Cloud Storage, over its JSON interface
(https://docs.cloud.google.com/storage/docs/json_api).

Of its uploads the one in two parts is used: the stand-in that the tests run ignores the condition of the plain one.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from http import HTTPStatus
from itertools import count
from typing import Any, Final
from urllib.parse import quote

import orjson

from backstop.runtime.bucket_requests import (
    BACKOFF_S,
    BACKOFF_S_MAX,
    RETRY_S,
    USUAL,
    BucketAddress,
    BucketRequestError,
    ObjectVersion,
    Patience,
)
from backstop.runtime.google_tokens import GoogleTokens, service_account
from backstop.runtime.google_web import GoogleAnswer, GoogleWeb
from backstop.runtime.process.chance import random_hex
from backstop.runtime.process.clock import make_clock, monotonic_s

ENDPOINT: Final = "https://storage.googleapis.com"
BOUNDARY_BITS: Final = 128


class GoogleRequests:
    """See `BucketRequests`."""

    def __init__(
        self, address: BucketAddress, web: GoogleWeb, tokens: GoogleTokens | None, patience: Patience = USUAL
    ) -> None:  # fmt: skip
        """:param tokens: None: a stand-in is asked, which needs none."""
        self._bucket = address.name
        self._below = f"{address.prefix.strip('/')}/" if address.prefix.strip("/") else ""
        base = (address.endpoint or ENDPOINT).rstrip("/")
        self._objects = f"{base}/storage/v1/b/{address.name}/o"
        self._uploads = f"{base}/upload/storage/v1/b/{address.name}/o?uploadType=multipart"
        self._web = web
        self._tokens = tokens
        self._tries_again_max = patience.tries_again_max

    async def put(self, key: str, data: bytes | memoryview, *, create: bool) -> bool:
        name = self._below + key
        boundary = random_hex(BOUNDARY_BITS)
        head = orjson.dumps({"name": name, "contentType": "application/octet-stream"})
        begin = f"--{boundary}\r\nContent-Type: application/json\r\n\r\n".encode() + head
        begin += f"\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
        parts = (begin, data, f"\r\n--{boundary}--\r\n".encode())
        url = self._uploads + ("&ifGenerationMatch=0" if create else "")
        try:
            answer = await self._asked(
                "POST", url, name, {"Content-Type": f"multipart/related; boundary={boundary}"}, parts
            )
        except FileNotFoundError as error:  # a put can miss only the bucket, and that is there
            raise BucketRequestError("unreachable", "404 of another server") from error
        if create and answer.status == HTTPStatus.PRECONDITION_FAILED:
            return False
        stored = self._ok(answer).document()
        if stored.get("name") != name or stored.get("size") != str(len(data)):
            raise BucketRequestError("failed", "the answer to a put does not tell that it was stored")
        return True

    async def get(self, key: str, announced: Callable[[int], None]) -> memoryview:
        name = self._below + key
        answer = await self._asked("GET", f"{self._object(name)}?alt=media", name, announced=announced)
        return self._ok(answer).body

    async def version(self, key: str) -> ObjectVersion:
        name = self._below + key
        told = self._ok(await self._asked("GET", self._object(name), name)).document()
        try:
            put_at = datetime.fromisoformat(told["timeCreated"])
            generation = told["generation"]
            if put_at.tzinfo is None or not generation.isdigit():
                raise ValueError
        except (KeyError, TypeError, AttributeError, ValueError):
            raise BucketRequestError("failed", "the answer does not tell when the object was made") from None
        return ObjectVersion(put_at.timestamp() * 1000, generation)

    async def delete(self, key: str, version: ObjectVersion) -> bool:
        name = self._below + key
        answer = await self._asked("DELETE", f"{self._object(name)}?ifGenerationMatch={version.generation}", name)
        if answer.status == HTTPStatus.PRECONDITION_FAILED:
            return False
        if answer.status != HTTPStatus.NO_CONTENT:
            self._ok(answer)
        return True

    async def close(self) -> None:
        await self._web.close()

    def _object(self, name: str) -> str:
        return f"{self._objects}/{quote(name, safe='')}"

    @staticmethod
    def _ok(answer: GoogleAnswer) -> GoogleAnswer:
        if answer.status != HTTPStatus.OK:
            raise answer.error()
        return answer

    async def _asked(
        self, method: str, url: str, name: str, headers: dict[str, str] | None = None,
        data: Sequence[bytes | memoryview] = (), announced: Callable[[int], None] | None = None,
    ) -> GoogleAnswer:  # fmt: skip
        """The answer, asked for again while it is one that may pass.

        :raises FileNotFoundError: the object is not there, while its bucket is.
        """
        answer = await self._again(method, url, headers or {}, data, announced)
        if answer.status != HTTPStatus.NOT_FOUND:
            return answer
        # The words of the service for an object, for reads of the content without JSON around them:
        # https://github.com/firebase/firebase-tools/pull/3647. It says "Not Found" for some missing buckets.
        if f"No such object: {self._bucket}/{name}" in answer.text():
            raise FileNotFoundError(name)
        listed = await self._again("GET", f"{self._objects}?prefix={quote(name, safe='')}&maxResults=1", {}, (), None)
        if listed.status == HTTPStatus.NOT_FOUND and listed.is_of_google():
            raise BucketRequestError("no_bucket", listed.error().args[0])
        if listed.status == HTTPStatus.NOT_FOUND:
            raise BucketRequestError("unreachable", f"404 of another server: {listed.text()[:100]}")
        if self._is_listed(self._ok(listed).document(), name):
            raise BucketRequestError("unreachable", "404 for an object that the bucket lists")
        raise FileNotFoundError(name)

    @staticmethod
    def _is_listed(listed: dict[str, Any], name: str) -> bool:
        items = listed.get("items", [])
        if listed.get("kind") != "storage#objects" or not isinstance(items, list):
            raise BucketRequestError("failed", "the answer is no list of objects")
        return any(not isinstance(item, dict) or item.get("name") == name for item in items)

    async def _again(
        self, method: str, url: str, headers: dict[str, str], data: Sequence[bytes | memoryview],
        announced: Callable[[int], None] | None,
    ) -> GoogleAnswer:  # fmt: skip
        began_s = monotonic_s()
        for tried in count():
            try:
                answer = await self._once(method, url, headers, data, announced)
                if not answer.passes:
                    return answer
                error = answer.error()
            except BucketRequestError as failed:
                error = failed
            pause_s = min(BACKOFF_S * 2**tried, BACKOFF_S_MAX)
            if not error.passing or tried >= self._tries_again_max or monotonic_s() + pause_s - began_s > RETRY_S:
                raise error
            await asyncio.sleep(pause_s)
        raise AssertionError

    async def _once(
        self, method: str, url: str, headers: dict[str, str], data: Sequence[bytes | memoryview],
        announced: Callable[[int], None] | None,
    ) -> GoogleAnswer:  # fmt: skip
        token = None if self._tokens is None else await self._tokens.current()
        sent = headers if token is None else {**headers, "Authorization": f"Bearer {token}"}
        answer = await self._web.ask(method, url, headers=sent, data=data, announced=announced)
        if answer.status == HTTPStatus.UNAUTHORIZED and token is not None and self._tokens is not None:
            self._tokens.refuse(token)
        return answer


def google_requests(address: BucketAddress, patience: Patience = USUAL) -> GoogleRequests:
    """The credential: a service account's key as the secret key, or any id of a key for the machine's own account.
    Neither: none, for a stand-in. Nothing else is asked for one.

    :raises ConfigurationError: the secret is no such key.
    """
    web = GoogleWeb()
    if address.secret_key is not None:
        account = service_account(address.secret_key.get_secret_value())
        return GoogleRequests(address, web, GoogleTokens(account, web, make_clock()), patience)
    tokens = GoogleTokens(None, web, make_clock()) if address.key_id is not None else None
    return GoogleRequests(address, web, tokens, patience)
