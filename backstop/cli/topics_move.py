"""`backstop topics move`: to another number of partitions. See docs/disaster-recovery.md."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from backstop.audit.move import move as run_move
from backstop.audit.move import plan
from backstop.cli.output import Form, Output, Quiet, emit, tell
from backstop.cli.reading import reading
from backstop.cli.settings import bootstrap_settings

COLUMNS = ("topic", "records", "partitions_before", "partitions")


def move(
    prefix: Annotated[str, typer.Option("--from", help="BACKSTOP_TOPIC_PREFIX of the old topics.")],
    group: Annotated[
        list[str] | None,
        typer.Option(help="A consumer group of yours that has read `results` to its end: it goes on in the new one."),
    ] = None,
    execute: Annotated[
        bool, typer.Option("--execute", help="Execute the plan. Without this option the plan is only shown.")
    ] = False,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Copy everything to the topics of the present prefix, which may have another number of partitions.

    For this all processes are stopped. The old topics are only read. Exit 2: it can't begin, or was broken off.
    """
    new = bootstrap_settings()
    old = new.model_copy(update={"topic_prefix": prefix})
    if execute:
        with reading("move", quiet=quiet) as progress:
            moved = asyncio.run(run_move(old, new, group or (), progress))
    else:
        moved = asyncio.run(plan(old, new, group or ()))
    emit([asdict(each) for each in moved], output, COLUMNS)
    if execute:
        tell("moved. From now on start processes of the new prefix only; `backstop audit verify` first", quiet=quiet)
    else:
        tell("nothing was copied: --execute does it", quiet=quiet)
