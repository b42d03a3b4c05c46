"""`backstop projection`: projects the logs into the read model and executes erasures, until SIGTERM."""

import asyncio
import os
from typing import TYPE_CHECKING

from backstop.cli.unknown_variables import warn_of_unknown
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.garbage import imports_uncollected
from backstop.runtime.read_settings import read
from backstop.runtime.startup import run_until_stopped

if TYPE_CHECKING:
    from streams.openai.provider import OpenAIProvider
    from streams.provider import AskAgain, Deleted, Refused


def projection() -> None:
    """Run the projection until SIGTERM. Settings come from the environment (`backstop settings`)."""
    with imports_uncollected():
        from backstop.readmodel.app import serve  # noqa: PLC0415 - only this command pays for the import
        from backstop.readmodel.settings import ProjectionSettings  # noqa: PLC0415 - as above

    async def run(settings: ProjectionSettings, now_ms: NowMs, stop: asyncio.Event) -> None:
        deletes = _Deletes(now_ms)
        try:
            await serve(settings, now_ms, stop, deletes if deletes.possible else None)
        finally:
            await deletes.close()

    warn_of_unknown(os.environ)
    run_until_stopped(read(ProjectionSettings), "projection", run)


class _Deletes:
    """Deletes responses at the provider, which is opened at the first one: most projections never delete any."""

    def __init__(self, now_ms: NowMs) -> None:
        from streams.openai.settings import OpenAISettings  # noqa: PLC0415 - as above

        self._settings = read(OpenAISettings)
        self._now_ms = now_ms
        self._provider: OpenAIProvider | None = None

    @property
    def possible(self) -> bool:
        return bool(self._settings.openai_api_key.get_secret_value().strip()) or self._settings.openai_keyless

    async def delete(self, response_id: str) -> "Deleted | AskAgain | Refused":
        if self._provider is None:
            from backstop.cli.foreground import Uncounted  # noqa: PLC0415 - as above
            from streams.openai.provider import open_openai  # noqa: PLC0415 - as above
            from streams.provider import CallLimits  # noqa: PLC0415 - as above

            self._provider = open_openai(self._settings, CallLimits(), Uncounted(), self._now_ms)
        return await self._provider.delete(response_id)

    async def close(self) -> None:
        if self._provider is not None:
            await self._provider.close()
