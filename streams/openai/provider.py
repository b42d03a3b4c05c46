"""OpenAI as a `streams.provider.Provider`: the calls of `client` and `stream`, read by `answers` and `stream_track`."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Self

from backstop.runtime.process.clock import NowMs
from streams.openai.account import OpenAIAccount
from streams.openai.answers import heard, read_cancel, read_create, read_delete, read_follow, read_poll
from streams.openai.causes import Rule
from streams.openai.client import OpenAIClient
from streams.openai.settings import OpenAISettings
from streams.openai.sse import EventTooLargeError
from streams.openai.stream import OpenAIStreams, StreamEvent
from streams.openai.stream_track import Track
from streams.openai.transport import tls_context
from streams.provider import (
    Accepted,
    AskAgain,
    CallLimits,
    CallMetrics,
    Deleted,
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
)

NO_RESPONSE: Final = "resp_0"
"""The id of no response. To retrieve it shows whether the provider answers; most answer 404."""
POLLED_MS: Final = 30_000
"""A provider that answered a poll this recently is not silent."""


class OpenAIProvider:
    """One account at OpenAI, or at a compatible server. Of the operator's `rules` the first that fits counts."""

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
        self._polled_at_ms: int | None = None
        """When the provider last answered a poll."""

    @classmethod
    def open(
        cls,
        account: OpenAIAccount,
        metrics: CallMetrics,
        now_ms: NowMs,
        limits: CallLimits,
        *,
        rules: Sequence[Rule] = (),
    ) -> Self:
        """The provider, not yet connected. Streams have connections and memory of their own, so that no create waits
        for one.

        :raises ConfigurationError: the environment names a proxy that is none.
        """
        client, streams = OpenAIClient(account, metrics, limits), OpenAIStreams(account, limits)
        return cls(client, streams, now_ms, rules=rules, account=account.name)

    async def create(
        self, request: Mapping[str, Any], *, job_id: str, attempt: int, tenant: str, timeout_ms: int, rest: bytes = b""
    ) -> Accepted | Rejected | Unknown:
        reply = await self._client.create(
            request, job_id=job_id, attempt=attempt, tenant=tenant, timeout_ms=timeout_ms, rest=rest
        )
        return read_create(reply, self._now_ms(), self._rules, job_id, attempt)

    async def ask(
        self, request: Mapping[str, Any], *, background: bool, timeout_ms: int
    ) -> Accepted | Rejected | Unknown:
        """A create that belongs to no job. In the foreground the answer holds the end.

        Its webhook, if it brings one, is that of a foreign response.
        """
        body = {name: value for name, value in request.items() if background or name != "background_options"}
        reply = await self._client.ask({**body, "background": background, "store": True}, timeout_ms)
        return read_create(reply, self._now_ms(), self._rules)

    async def poll(
        self, response_id: str, job_id: str | None, include: Sequence[str] = ()
    ) -> Seen | Missing | AskAgain | Refused:
        reply = await self._client.retrieve(response_id, include)
        if heard(reply):
            self._polled_at_ms = self._now_ms()
        return read_poll(reply, self._now_ms(), job_id, self._rules, response_id)

    async def cancel(self, response_id: str, job_id: str | None) -> Seen | NotCancelled | AskAgain | Refused:
        return read_cancel(await self._client.cancel(response_id), self._now_ms(), job_id, self._rules, response_id)

    async def delete(self, response_id: str) -> Deleted | AskAgain | Refused:
        return read_delete(await self._client.delete(response_id), self._now_ms())

    async def answers(self) -> bool:
        if self._polled_at_ms is None or heard(await self._client.retrieve(NO_RESPONSE)):
            return True
        return self._now_ms() - self._polled_at_ms < POLLED_MS  # Only this one call is not answered.

    def follow(self, response_id: str, *, event_bytes_max: int, response_bytes_max: int) -> ResponseStream:
        return OpenAIStream(self._streams, response_id, Track(event_bytes_max, response_bytes_max), self._now_ms)

    async def close(self) -> None:
        await self._client.close()
        await self._streams.close()


def open_openai(settings: OpenAISettings, limits: CallLimits, metrics: CallMetrics, now_ms: NowMs) -> OpenAIProvider:
    """The provider that the settings name.

    :raises ConfigurationError: a certificate can't be used, or the environment names a proxy that is none.
    """
    account = OpenAIAccount(
        settings.openai_base_url,
        settings.openai_api_key,
        settings.openai_organization,
        settings.openai_project,
        tls_context(settings.openai_client_certificate, settings.openai_client_key),
    )
    rules = tuple(rule.rule() for rule in settings.answer_rules)
    limits = replace(
        limits,
        answer_bytes_max=settings.openai_answer_bytes_max,
        answers_memory_bytes_max=settings.openai_answers_memory_bytes_max,
    )
    return OpenAIProvider.open(account, metrics, now_ms, limits, rules=rules)


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
