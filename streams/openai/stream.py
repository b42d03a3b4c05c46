"""Streams of running responses: `GET /responses/{id}?stream=true` as a sequence of events.

Apart from `streams.openai.client`: a stream holds its connection while a response runs. So streams have a connection
pool of their own, and a create never waits for one of their connections.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from streams.answer_memory import Hold
from streams.openai.account import OpenAIAccount
from streams.openai.answers import ProviderAnswer, Reply
from streams.openai.bounded import AnswerLimits, is_event_stream, pieces_of
from streams.openai.client import (
    CONNECT_TIMEOUT_S,
    EVENT_BYTES_MAX,
    POOL_TIMEOUT_S,
    make_sdk,
    path_of,
    reply_of,
    whole_answer,
)
from streams.openai.requests import RequestSender
from streams.openai.sse import EventReader
from streams.provider import CallLimits


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """The data of one event: any JSON, or `NOT_JSON`."""

    body: Any
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened(ProviderAnswer):
    response: httpx2.Response


class OpenAIStreams:
    """Opens streams. It fails after `poll_timeout_ms` without an answer, or `stream_silence_ms` of silence."""

    def __init__(
        self,
        account: OpenAIAccount,
        limits: CallLimits,
    ) -> None:
        answers = AnswerLimits.of_streams(limits)
        self._answers = answers
        self._open_timeout_s = limits.poll_timeout_ms / 1_000
        silence_s = limits.stream_silence_ms / 1_000
        self._timeouts = httpx2.Timeout(
            self._open_timeout_s, read=silence_s, connect=CONNECT_TIMEOUT_S, pool=POOL_TIMEOUT_S
        )
        self._requests = RequestSender(make_sdk(account, limits.streams_max, answers))

    @asynccontextmanager
    async def opened(self, response_id: str, after: int) -> AsyncIterator[AsyncIterator[StreamEvent] | Reply]:
        """The events after number `after` (-1: all), or the answer that came instead of a stream.

        Reading the events raises the error that broke the connection, or `EventTooLargeError`.
        """
        connection = AsyncExitStack()

        async def call() -> httpx2.Response:
            params = {"stream": True, **({"starting_after": after} if after >= 0 else {})}
            response = await self._requests.send(
                "GET", path_of(response_id), params=params, timeouts=self._timeouts, stream=True
            )
            connection.push_async_callback(response.aclose)
            return response

        async def read(response: httpx2.Response) -> ProviderAnswer:
            if is_event_stream(response):
                return _Opened(response.status_code, response=response)
            return await whole_answer(response)

        async with connection:
            reply = await reply_of(call, self._open_timeout_s, read, streams=True)
            if isinstance(reply, _Opened):
                async with aclosing(self._events(reply.response)) as events:
                    yield events
            else:
                yield reply

    async def _events(self, response: httpx2.Response) -> AsyncGenerator[StreamEvent, None]:
        reader, hold = EventReader(EVENT_BYTES_MAX), Hold()
        try:
            async for chunk in pieces_of(response):
                events = reader.feed(chunk)
                await self._answers.memory.resize_for(hold, reader.held_bytes, events)
                for data in events:
                    read = await self._answers.event(data)
                    # Without its output an event can't be published.
                    yield StreamEvent(read.head, len(data) if read.text is None else EVENT_BYTES_MAX)
        finally:
            hold.release()

    async def close(self) -> None:
        await self._requests.close()
