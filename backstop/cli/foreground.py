"""Asks requests twice at once, in the background and in the foreground: the sample of `backstop report latency`.

Each answer costs tokens, so this runs only where `--execute` says so. It writes to no topic, and no job changes.
"""

import asyncio
import signal
from collections.abc import Sequence
from typing import Final

from backstop.audit.latency.foreground import AnswerPair, SampledRequest, TimedAnswer
from backstop.cli.output import tell
from backstop.runtime.process.clock import make_clock, monotonic_s
from backstop.runtime.read_settings import read
from streams.openai.provider import OpenAIProvider, open_openai
from streams.openai.settings import OpenAISettings
from streams.provider import Accepted, Alarm, CallLimits, Operation, Rejected, Seen, Unknown

ANSWER_MS_MAX: Final = 900_000
"""An answer that takes longer counts as none."""

PAIRS_AT_ONCE: Final = 4
POLL_EVERY_S: Final = 1.0
"""In the background an end is known this much later at most."""


class Uncounted:
    """No metrics: the command ends with its answers."""

    def request(self, operation: Operation, status_class: str, seconds: float) -> None:
        pass

    def alarm(self, kind: Alarm) -> None:
        pass


def ask_twice(requests: Sequence[SampledRequest], *, quiet: bool) -> list[AnswerPair]:
    """Send each request in the foreground and in the background at the same moment. Interrupted: the pairs so far, as
    they are paid.

    :raises ConfigurationError: there is no key, or it can't be used.
    """
    settings = read(OpenAISettings)
    settings.refuse_to_start()
    found: list[AnswerPair] = []

    async def run() -> None:
        provider = open_openai(settings, CallLimits(calls_max=4 * PAIRS_AT_ONCE), Uncounted(), make_clock())
        places = asyncio.Semaphore(PAIRS_AT_ONCE)

        async def pair(request: SampledRequest) -> None:
            async with places:
                foreground, background = await asyncio.gather(
                    _answer(provider, request, background=False), _answer(provider, request, background=True)
                )
            found.append(AnswerPair(request.model, foreground, background))
            tell(f"{len(found)} of {len(requests)} pairs", quiet=quiet)

        asking = asyncio.gather(*(pair(request) for request in requests))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, asking.cancel)
        try:
            await asking
        except asyncio.CancelledError:
            tell(f"interrupted: the report has {len(found)} of {len(requests)} pairs")
        finally:
            await provider.close()

    asyncio.run(run())
    return found


async def _answer(provider: OpenAIProvider, request: SampledRequest, *, background: bool) -> TimedAnswer:
    began_s = monotonic_s()
    match await provider.ask(request.body, background=background, timeout_ms=ANSWER_MS_MAX):
        case Rejected() as rejected:
            return TimedAnswer(f"refused: {rejected.code}")
        case Unknown() as unknown:
            return TimedAnswer(f"no answer: {unknown.reason}")
        case Accepted() as accepted:
            end = accepted.end or await _polled(provider, accepted.response_id, began_s)
    if end is None:
        return TimedAnswer("no end in time")
    run_ms = None
    if end.created_at_ms is not None and end.ended_at_ms is not None:
        run_ms = max(0, end.ended_at_ms - end.created_at_ms)
    return TimedAnswer(end.outcome, round(1_000 * (monotonic_s() - began_s)), run_ms)


async def _polled(provider: OpenAIProvider, response_id: str, began_s: float) -> Seen | None:
    """The end of a response; None if it is not known in time. What is not waited for any more is cancelled."""
    over = False
    try:
        while monotonic_s() - began_s < ANSWER_MS_MAX / 1_000:
            await asyncio.sleep(POLL_EVERY_S)
            seen = await provider.poll(response_id, None)
            if isinstance(seen, Seen) and seen.over:
                over = True
                return seen
        return None
    finally:
        if not over:
            await provider.cancel(response_id, None)
