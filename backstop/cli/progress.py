"""Live progress on stderr: bars on a terminal, otherwise a line every few seconds."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from backstop.cli.output import tell
from backstop.dev.driver import Driver

DRAW_EVERY_S = 0.2
LINE_EVERY_S = 5.0


@asynccontextmanager
async def shown(driver: Driver, total: int, *, quiet: bool) -> AsyncIterator[None]:
    """Show the progress of `driver` while the block runs."""
    if quiet:
        yield
        return
    drawing = asyncio.create_task(_bars(driver, total) if sys.stderr.isatty() else _lines(driver, total))
    try:
        yield
    finally:
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)


async def _bars(driver: Driver, total: int) -> None:
    columns = (
        TextColumn("{task.description:<10}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        submitted = progress.add_task("submitted", total=total, note="")
        finished = progress.add_task("results", total=total, note="")
        try:
            while True:
                _draw(progress, submitted, finished, driver)
                await asyncio.sleep(DRAW_EVERY_S)
        finally:
            _draw(progress, submitted, finished, driver)


def _draw(progress: Progress, submitted: TaskID, finished: TaskID, driver: Driver) -> None:
    progress.update(submitted, completed=len(driver.acknowledged))
    progress.update(finished, completed=len(driver.finished), note=_note(driver))


async def _lines(driver: Driver, total: int) -> None:
    while True:
        await asyncio.sleep(LINE_EVERY_S)
        tell(f"{len(driver.acknowledged)} of {total} submitted, {len(driver.finished)} results: {_note(driver)}")


def _note(driver: Driver) -> str:
    found = Counter(result.found_by or result.outcome for result in driver.results)
    return ", ".join(f"{name} {count}" for name, count in found.most_common())
