"""OpenAI as a `streams.provider.Provider`: the calls of `client` and `stream`, read by `answers` and `stream_track`."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

from pydantic import SecretStr

from backstop.runtime.process.clock import NowMs
from streams.answer_memory import AnswerMemory
from streams.openai.answers import read_cancel, read_create, read_follow, read_poll
from streams.openai.bounded import AnswerLimits
from streams.openai.causes import Rule
from streams.openai.client import OpenAIClient
from streams.openai.sse import EventTooLargeError
from streams.openai.stream import OpenAIStreams, StreamEvent
from streams.openai.stream_track import Track
from streams.openai.transport import tls_context
from streams.provider import (
    Accepted,
    AskAgain,
    CallMetrics,
    Missing,
    NotCancelled,
    NotStreamable,
    Refused,
    Rejected,
    ResponseStream,
    Seen,
    StreamStep,
    TooMuch,
    Unknown,
    account_name,
)

STREAMS_SHARE: Final = 4
"""Events of streams may have a quarter of the memory that answers may have, beside it."""


class OpenAIProvider:
    """One account at OpenAI, or at a server that speaks as OpenAI does. `rules` are the operator's own, the first that fits wins."""

    def __init__(
        self,
        client: OpenAIClient,
        streams: OpenAIStreams,
        now_ms: NowMs,
        *,
        rules: Sequence[Rule] = (),
        account: str = "",
    ) -> None:
        self.account = account
        self._client = client
        self._streams = streams
        self._now_ms = now_ms
        self._rules = rules

    @classmethod
    def open(
        cls,
        *,
        base_url: str,
        api_key: SecretStr,
        metrics: CallMetrics,
        now_ms: NowMs,
        rules: Sequence[Rule] = (),
        organization: str | None = None,
        project: str | None = None,
        certificate: Path | None = None,
        certificate_key: Path | None = None,
        connections_max: int = 128,
        poll_timeout_ms: int = 30_000,
        streams_max: int = 1,
        stream_silence_ms: int = 600_000,
        answer_bytes_max: int = 64 << 20,
        answers_memory_bytes_max: int = 256 << 20,
    ) -> Self:
        """The provider, not yet connected. Streams have connections and memory of their own, so that no create waits
        for one.

        :raises ConfigurationError: a certificate can't be used, or the environment names a proxy that is none.
        """
        account: dict[str, Any] = {
            "base_url": base_url,
            "api_key": api_key,
            "organization": organization,
            "project": project,
            "tls": tls_context(certificate, certificate_key),
        }
        client = OpenAIClient(
            **account,
            metrics=metrics,
            connections_max=connections_max,
            poll_timeout_ms=poll_timeout_ms,
            answers=AnswerLimits(answer_bytes_max, AnswerMemory(answers_memory_bytes_max)),
        )
        streams = OpenAIStreams(
            **account,
            connections_max=max(1, streams_max),
            open_timeout_ms=poll_timeout_ms,
            silence_ms=stream_silence_ms,
            answers=AnswerLimits(answer_bytes_max, AnswerMemory(answers_memory_bytes_max // STREAMS_SHARE)),
        )
        named = account_name(base_url, api_key.get_secret_value(), organization, project)
        return cls(client, streams, now_ms, rules=rules, account=named)

    async def create(
        self, request: Mapping[str, Any], *, job_id: str, attempt: int, tenant: str, timeout_ms: int
    ) -> Accepted | Rejected | Unknown:
        reply = await self._client.create(request, job_id=job_id, attempt=attempt, tenant=tenant, timeout_ms=timeout_ms)
        return read_create(reply, self._now_ms(), self._rules)

    async def poll(
        self, response_id: str, job_id: str | None, include: Sequence[str] = ()
    ) -> Seen | Missing | AskAgain | Refused:
        reply = await self._client.retrieve(response_id, include)
        return read_poll(reply, self._now_ms(), job_id, self._rules)

    async def cancel(self, response_id: str, job_id: str | None) -> Seen | NotCancelled | AskAgain | Refused:
        return read_cancel(await self._client.cancel(response_id), self._now_ms(), job_id, self._rules)

    def follow(self, response_id: str, *, event_bytes_max: int, response_bytes_max: int) -> ResponseStream:
        return OpenAIStream(self._streams, response_id, Track(event_bytes_max, response_bytes_max), self._now_ms)

    async def close(self) -> None:
        await self._client.close()
        await self._streams.close()


class OpenAIStream:
    """The stream of one response; `track` says where it is."""

    def __init__(self, streams: OpenAIStreams, response_id: str, track: Track, now_ms: NowMs) -> None:
        self._streams = streams
        self._response_id = response_id
        self._track = track
        self._now_ms = now_ms

    @property
    def last(self) -> int:
        return self._track.last

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[AsyncIterator[StreamStep] | NotStreamable | AskAgain | Refused]:
        async with self._streams.opened(self._response_id, self._track.last) as opened:
            if isinstance(opened, AsyncIterator):
                async with aclosing(self._steps(opened)) as steps:
                    yield steps
            else:
                yield read_follow(opened, self._now_ms())

    async def _steps(self, events: AsyncIterator[StreamEvent]) -> AsyncGenerator[StreamStep, None]:
        try:
            async for event in events:
                yield self._track.take(event.body, event.size_bytes)
        except EventTooLargeError:
            yield TooMuch("event_too_large")
