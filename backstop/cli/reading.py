"""Reading topics, or a bundle instead. Progress on stderr: a bar on a terminal, otherwise a line every few seconds."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backstop.cli.output import tell
from backstop.runtime.process.clock import monotonic_s

LINE_EVERY_S = 10.0

FromBundle = Annotated[Path | None, typer.Option("--bundle", help="Read a bundle instead of the topics.")]

Tell = Callable[[str, int, int], None]


@contextmanager
def reading(what: str, *, quiet: bool) -> Iterator[Tell]:
    """Yields the function to report with: (topic, records read, records in total)."""
    if quiet:
        yield lambda _topic, _done, _total: None
    elif sys.stderr.isatty():
        with _bar(what) as told:
            yield told
    else:
        yield _lines(what)


@contextmanager
def _bar(what: str) -> Iterator[Tell]:
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[topic]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None, topic="")
        yield lambda topic, done, total: progress.update(task, completed=done, total=max(done, total), topic=topic)


def _lines(what: str) -> Tell:
    began_s = told_s = monotonic_s()

    def line(topic: str, done: int, total: int) -> None:
        nonlocal told_s
        now_s = monotonic_s()
        if now_s - told_s >= LINE_EVERY_S:
            told_s = now_s
            tell(f"{what}: {done} of {max(done, total)} records, {done / (now_s - began_s):.0f}/s ({topic})")

    return line
