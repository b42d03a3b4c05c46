"""Streams of responses for the official SDKs: of a create with `stream: true`, or resumed with `starting_after`."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any

from aiohttp import web

from backstop.runtime.authority import Authority, authority_of
from backstop.runtime.errors import BlobStoreError
from backstop.runtime.http.routes import EVENT_STREAM
from backstop.runtime.process.clock import NowMs
from receiver.answers import keep, let_go
from receiver.limits import Limits
from receiver.lookups import ReadsAwayError
from receiver.partial_output.listeners import Listener, Live, listening
from receiver.partial_output.serving import View, is_recent, serve_events
from receiver.problems import SECURITY_HEADERS, Refusal, unavailable
from receiver.responses_api.creates import refusal
from receiver.responses_api.responses import Responses, ShownResponse
from receiver.responses_api.streamed import ResponseView
from receiver.responses_api.wire import shown_bytes
from schemas.job_ids import qualified_job_id


class ResponseStreams:
    def __init__(self, live: Live, responses: Responses, limits: Limits, now_ms: NowMs) -> None:
        self._live = live
        self._responses = responses
        self._limits = limits
        self._now_ms = now_ms

    def place(self, tenant: str, response_id: str, authority: Authority) -> AbstractAsyncContextManager[Listener]:
        """A listener to the response, which need not exist yet: a create reserves its listener before it is submitted.

        :raises Refusal: 503, on entering.
        """
        return listening(self._live, tenant, qualified_job_id(tenant, response_id), self._limits, authority)

    async def serve(
        self, request: web.Request, tenant: str, document: Mapping[str, Any], after: int | None, *, obfuscated: bool,
        headers: Mapping[str, str] | None = None, listener: Listener | None = None, unstored: bool = False,
        sha256: str | None = None,
    ) -> web.StreamResponse:  # fmt: skip
        """Answer with the events of the response `document`: all, or those after number `after`. `sha256` is the hash
        of a create's submission: if the id turns out to belong to another submission, the stream stops.

        :raises Refusal: 422 (400 at OpenAI's API), the events after `after` are no longer stored; 503.
        """
        response_id = str(document["id"])
        view = ResponseView(response_id, document, after, obfuscated=obfuscated)
        async with AsyncExitStack() as held:
            if listener is None:
                listener = await held.enter_async_context(self.place(tenant, response_id, authority_of(request)))
                keep(shown_bytes(document))
            await self._covered(listener, view)
            if view.is_over(listener.history):
                return web.Response(content_type=EVENT_STREAM, headers=SECURITY_HEADERS)
            events: View[ShownResponse] = view
            return await serve_events(
                request, listener, events,
                partial(self._ended, tenant, response_id, listener, hidden_too=unstored, sha256=sha256),
                self._limits, self._live.metrics, view.first(), recent=self._is_recent, headers=headers,
            )  # fmt: skip

    async def refuse_unstreamed(self, tenant: str, shown: ShownResponse) -> None:
        """:raises Refusal: 422 (400 at OpenAI's API), the response was not created with `stream: true`. If its request
        is no longer stored, it is not refused.
        """
        sha256 = shown.request_sha256
        asked = None if sha256 is None else await self._responses.asked_in_short(tenant, sha256)
        if asked is not None and asked.get("stream") is not True:
            raise refusal("stream", "This response cannot be streamed because it was not created with stream=true.")

    async def _covered(self, listener: Listener, view: ResponseView) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._limits.stream_covered_s
        while view.lacks(listener.history):
            left_s = deadline_s - loop.time()
            if left_s <= 0 or listener.stopped or listener.dismissed:
                if not self._live.caught_up:
                    raise unavailable(
                        "streams_unavailable",
                        "This process is still reading recent events; send the request again.",
                        self._limits.retry_after_s,
                    )
                raise refusal(
                    "starting_after",
                    "The events after starting_after are no longer stored. Poll GET /v1/responses/{id}, or stream the "
                    "response from its start.",
                )
            await listener.wait(left_s)

    async def _ended(
        self, tenant: str, response_id: str, listener: Listener, *, hidden_too: bool, sha256: str | None
    ) -> ShownResponse | None:
        try:
            shown = await self._responses.find(tenant, response_id, hidden_too=hidden_too)
        except (ReadsAwayError, BlobStoreError, Refusal):
            return None  # the next change, or the next look after some seconds, asks again
        if shown is not None and sha256 is not None and shown.request_sha256 not in (None, sha256):
            shown = None
        if shown is None:
            listener.stopped = True  # deleted meanwhile, or the response of another submission
        if shown is None or not shown.ended:
            let_go()  # a stream lives for hours, and what it showed of the request is sent
            return None
        return shown

    def _is_recent(self, ended: ShownResponse) -> bool:
        at_ms = ended.finished_at_ms
        return at_ms is not None and is_recent(at_ms, self._now_ms(), self._limits)
