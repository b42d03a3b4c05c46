"""`backstop audit verify | watch | timeline | state | export | import | replay`: proofs from the topics.

Writes to no topic.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from backstop.audit import timeline as history
from backstop.audit.bundle import TOPICS, Contents, read_bundle, refold_bundle, write_bundle
from backstop.audit.places import PlacesDifferError
from backstop.audit.trace import Fetch, Trace, from_places, from_records, from_topics, trace
from backstop.audit.verify import verify as run_verify
from backstop.cli.audit_text import (
    ENTRY_COLUMNS,
    PARTITION_COLUMNS,
    contents_lines,
    entry_row,
    partition_rows,
    report_lines,
    state_lines,
)
from backstop.cli.lazy_commands import LazyCommands
from backstop.cli.log_places import known_places
from backstop.cli.output import DIFFERS, DONE, Form, Output, Quiet, emit, emit_one, fail, say, tell
from backstop.cli.read_rows import read_model, read_model_url
from backstop.cli.reading import FromBundle, reading
from backstop.cli.settings import bootstrap_settings
from backstop.cli.times import point_in_time
from backstop.runtime.kafka.topic_reader import TopicReader, open_reader
from backstop.runtime.process.clock import make_clock
from backstop.runtime.process.garbage import settle_garbage_collector
from backstop.runtime.records import Record


class _Audits(LazyCommands):
    modules: ClassVar = {"replay": "backstop.cli.audit_replay", "watch": "backstop.cli.audit_watch"}


app = typer.Typer(
    cls=_Audits, help="Histories and proofs, from the topics alone.", no_args_is_help=True, add_completion=False
)

SETTLE_S = 10.0

Id = Annotated[str, typer.Argument(help="The id of a job, or of one of its responses.")]
Everywhere = Annotated[
    bool,
    typer.Option("--everywhere", help="Read all partitions; finds records that a foreign writer put in the wrong one."),
]  # fmt: skip
Whole = Annotated[
    bool,
    typer.Option("--whole", help="Read whole partitions, not only the places that the read model knows."),
]  # fmt: skip


@app.command()
def verify(
    settle_s: Annotated[
        float, typer.Option("--settle", min=0, help="Seconds for the live system to catch up with its log.")
    ] = SETTLE_S,
    no_readmodel: Annotated[bool, typer.Option("--no-readmodel", help="Don't compare the read model.")] = False,
    complete: Annotated[
        bool, typer.Option("--complete", help="Exit 1 also where retention removed facts that the proof needs.")
    ] = False,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Refold both logs from the beginning; compare tables, results, commands and read model, byte for byte.

    Exit 0: all equal (what retention removed is listed as not covered). 1: a difference. 2: no connection.
    """
    settings = bootstrap_settings()
    url = None if no_readmodel else read_model_url()
    settle_garbage_collector()

    async def run() -> int:
        # The read model first: the logs, read later, then contain every fact that it has applied.
        model = await read_model(url) if url else None
        async with open_reader(settings) as reader:
            with reading("verify", quiet=quiet) as progress:
                report = await run_verify(
                    reader, prefix=settings.topic_prefix, settle_s=settle_s, read_model=model, progress=progress
                )
        if output is Form.TABLE:
            emit(partition_rows(report), output, PARTITION_COLUMNS)
            say("\n" + "\n".join(report_lines(report)))
        else:
            emit_one(report.as_json())
        return DIFFERS if report.counts or (complete and not report.complete) else DONE

    raise typer.Exit(asyncio.run(run()))


@app.command()
def timeline(
    identifier: Id, bundle: FromBundle = None, whole: Whole = False, everywhere: Everywhere = False,
    output: Output = Form.TABLE,
) -> None:  # fmt: skip
    """List the records of a job and its responses by time, each with its place and effect. Exit 1: there are none."""

    async def run(found: Trace) -> int:
        entries = history.timeline(found.records)
        if output is Form.TABLE:
            emit([entry_row(entry) for entry in entries], output, ENTRY_COLUMNS)
        else:
            emit([{**entry.as_json(), "place": entry.place} for entry in entries], output, ENTRY_COLUMNS)
        return DONE

    _with_records(identifier, run, bundle, whole=whole, everywhere=everywhere)


@app.command()
def state(
    identifier: Id,
    at: Annotated[
        str, typer.Option(help="ISO time (UTC), unix milliseconds, or how long ago: 90s, 5m, 2h, 1d.")
    ] = "0s",
    bundle: FromBundle = None,
    whole: Whole = False,
    everywhere: Everywhere = False,
    output: Output = Form.TABLE,
) -> None:
    """Refold the state of a job and its responses at a time. Bodies are shown by digest. Exit 1: no state at
    that time.
    """
    at_ms = point_in_time(at, make_clock()())

    async def run(found: Trace) -> int:
        states = history.states_at(found.records, at_ms)
        if not states:
            fail(f"{identifier} did not exist at that time: its first record is newer", DIFFERS)
        if output is Form.TABLE:
            say("\n".join(line for state in states for line in state_lines(state)))
        else:
            emit([state.as_json() for state in states], output, ("topic", "key", "status"))
        return DONE

    _with_records(identifier, run, bundle, whole=whole, everywhere=everywhere)


@app.command()
def export(
    file: Annotated[
        Path, typer.Argument(help="The bundle to write. It contains prompts and outputs, as the topics do.")
    ],
    job: Annotated[
        str | None, typer.Option("--job", help="Only this job (or response), with its records of all topics.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of both logs, commands and results.")] = False,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Write a history to a file that can be refolded without a broker, and print the digests of its rows."""
    if (job is None) is not everything:
        fail("give --job ID, or --all")
    settings = bootstrap_settings()

    async def run() -> Contents:
        async with open_reader(settings) as reader:
            with reading("export", quiet=quiet) as progress:
                if job is None:
                    batches = _everything(reader, progress)
                else:
                    found = await _traced(job, from_topics(reader))
                    batches = _of(found.records)
                return await write_bundle(file, batches, scope=job or "all", made_at_ms=make_clock()())

    contents = asyncio.run(run())
    _print_contents(contents, output)
    tell(f"{file}: {sum(contents.records.values())} records", quiet=quiet)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A bundle.")], output: Output = Form.TABLE, quiet: Quiet = False
) -> None:
    """Refold a bundle, with sockets blocked. Exit 0: the same rows as at its export; 1: different rows."""
    contents = refold_bundle(file)
    _print_contents(contents, output)
    tell("the rows differ from the export's" if contents.differs else "the rows equal the export's", quiet=quiet)
    raise typer.Exit(DIFFERS if contents.differs else DONE)


def _with_records(
    identifier: str, run: Callable[[Trace], Awaitable[int]], bundle: Path | None, *, whole: bool, everywhere: bool
) -> None:
    """Run one command on what the topics or a bundle hold of a job or response, then exit with its code."""

    async def on_topics() -> int:
        places = None if whole or everywhere else await known_places(identifier)
        async with open_reader(bootstrap_settings()) as reader:
            if places is not None:
                try:
                    return await run(await _traced(places.job_id, from_places(reader, places)))
                except PlacesDifferError as error:
                    tell(f"{error}: the read model is of other logs, so whole partitions are read")
            return await run(await _traced(identifier, from_topics(reader, everywhere=everywhere)))

    async def on_bundle(file: Path) -> int:
        return await run(await _traced(identifier, from_records(read_bundle(file))))

    raise typer.Exit(asyncio.run(on_topics() if bundle is None else on_bundle(bundle)))


async def _traced(identifier: str, fetch: Fetch) -> Trace:
    found = await trace(identifier, fetch)
    if found is None:
        fail(f"no record of {identifier}: the logs, as far as they are kept, have no such job or response", DIFFERS)
    return found


async def _everything(
    reader: TopicReader, progress: Callable[[str, int, int], None]
) -> AsyncIterator[Sequence[Record]]:
    ends = await reader.ends([partition for topic in TOPICS for partition in reader.partitions(topic)])
    done, total = 0, sum(ends.values())
    async for batch in reader.read(ends):
        yield batch
        done += len(batch)
        progress(batch[0].topic, done, total)


async def _of(records: Sequence[Record]) -> AsyncIterator[Sequence[Record]]:
    ordered = sorted(records, key=lambda record: (record.topic, record.partition, record.offset))
    for _, batch in groupby(ordered, key=lambda record: (record.topic, record.partition)):
        yield list(batch)


def _print_contents(contents: Contents, output: Form) -> None:
    if output is Form.TABLE:
        say("\n".join(contents_lines(contents)))
    else:
        emit_one(asdict(contents))
