"""`backstop report latency`: how long responses and jobs took, and how many webhooks were lost. Writes to no topic."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from backstop.audit.bundle import BundleReader
from backstop.audit.latency.foreground import LOGS as SAMPLE_LOGS
from backstop.audit.latency.foreground import (
    PAIRS_MAX,
    ForegroundFigures,
    SampledRequest,
    SampleReading,
    foreground_figures,
)
from backstop.audit.latency.foreground_text import verdict
from backstop.audit.latency.page import page
from backstop.audit.latency.rows import LOGS, LatencyReading, ReportRangeError
from backstop.audit.latency.statistics import Interval
from backstop.audit.latency.summary import FEW, Misses, Summary, summarize
from backstop.cli.audit_replay import Since, Until, cost_of, range_ms, range_of
from backstop.cli.foreground import ask_twice
from backstop.cli.output import DIFFERS, DONE, Form, Output, Quiet, emit, emit_one, fail, say, tell
from backstop.cli.reading import FromBundle, reading
from backstop.cli.settings import bootstrap_settings
from backstop.readmodel.settings import ProjectionSettings
from backstop.runtime.kafka.topic_reader import open_reader
from backstop.runtime.process.clock import make_clock
from backstop.runtime.read_settings import read
from backstop.runtime.records import Record
from streams.policy.prices import Prices, dollars

app = typer.Typer(help="Reports to hand on.", no_args_is_help=True, add_completion=False)

Take = Callable[[Sequence[Record]], None]

COLUMNS: Final = ("group", "span", "ended", "open", "p50", "p95", "p99")


@app.callback()
def _reports() -> None:
    """Reports to hand on. They hold no tenant, prompt or output."""


@app.command()
def latency(
    since: Since,
    until: Until = "0s",
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the report with its plots to this file; it is replaced.")
    ] = None,
    bundle: FromBundle = None,
    foreground: Annotated[
        int,
        typer.Option(
            min=0,
            max=PAIRS_MAX,
            help="Compare the background with the foreground: so many requests of the range, each asked twice at one "
            "time. Costs tokens: without --execute only the plan and its cost are printed.",
        ),
    ] = 0,
    execute: Annotated[bool, typer.Option("--execute", help="Send the requests of --foreground.")] = False,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Report queue, run, webhook lag, detection and total, by model, tier and hour, with 95 % confidence intervals.

    Lost webhooks are measured against the ends that polls found; without bias where `BACKSTOP_POLL_CONTROL_SHARE` sets
    a control group. Exit 1: no job was submitted in the range.
    """
    since_ms, until_ms = range_ms(since, until)
    if execute and not foreground:
        fail("--execute sends the requests of --foreground: name how many")
    found, sample = LatencyReading(since_ms, until_ms), SampleReading(since_ms, until_ms, foreground)

    def take(batch: Sequence[Record]) -> None:
        found.take(batch)
        if foreground and batch[0].topic in SAMPLE_LOGS:
            sample.take(batch)

    try:
        if bundle:
            _from_bundle(bundle, take)
        else:
            _from_topics(since_ms, take, quiet=quiet)
        rows = found.done()
    except ReportRangeError as error:
        fail(str(error), DIFFERS)
    if foreground and not execute:
        _plan(sample, output)
        raise typer.Exit(DONE)
    compared = _compared(sample.done(), quiet=quiet) if foreground else None
    summary = summarize(rows)
    if html is not None:
        part = html.with_name(f"{html.name}.part")
        part.write_text(page(rows, summary, compared), "utf-8")
        part.rename(html)
        tell(f"{html}: {summary.jobs} jobs, {summary.responses} responses", quiet=quiet)
    _print(summary, compared, output)
    raise typer.Exit(DONE)


def _plan(sample: SampleReading, output: Form) -> None:
    """What `--execute` would send and cost, by model."""
    requests = sample.done()
    prices, day = read(ProjectionSettings).prices(), datetime.fromtimestamp(make_clock()() / 1_000, UTC).date()
    rows = [{"model": model, "answers": 2 * count,
             **_expected([each for each in requests if each.model == model], prices, day)}
            for model, count in sorted(Counter(each.model for each in requests).items())]  # fmt: skip
    emit(rows, output, ("model", "answers", "cost_usd", "without_price"))
    if output is Form.TABLE:
        say("\n" + "\n".join((
            (f"{2 * len(requests)} answers: each request once in the background and once in the foreground. The cost "
             "is that of the tokens that their jobs used. Nothing was sent: add --execute."),
            *(f"Left out: {count} jobs, as {why}." for why, count in sorted(sample.left_out.items())),
        )))  # fmt: skip


def _expected(requests: Sequence[SampledRequest], prices: Prices, day: date) -> dict[str, Any]:
    costs = [None if each.usage is None else cost_of(prices, each.model, each.usage, None, day) for each in requests]
    known = [cost for cost in costs if cost is not None]
    return {"cost_usd": dollars(2 * sum(known)), "without_price": 2 * (len(costs) - len(known))}


def _compared(requests: Sequence[SampledRequest], *, quiet: bool) -> ForegroundFigures:
    if not requests:
        fail("no request of the range may be asked again: see --foreground without --execute", DIFFERS)
    return foreground_figures(ask_twice(requests, quiet=quiet))


def _from_bundle(file: Path, take: Take) -> None:
    """:raises ConfigurationError: the file is not a bundle, or was changed."""
    bundle = BundleReader(file)
    for topic in LOGS:
        for batch in bundle.batches():
            if batch[0].topic == topic:
                take(batch)


def _from_topics(since_ms: int, take: Take, *, quiet: bool) -> None:
    settings = bootstrap_settings()

    async def run() -> None:
        async with open_reader(settings) as reader:
            with reading("report", quiet=quiet) as progress:
                async for batch in range_of(reader, since_ms, LOGS, progress):
                    take(batch)

    asyncio.run(run())


def _print(summary: Summary, compared: ForegroundFigures | None, output: Form) -> None:
    if output is Form.JSON:
        emit_one(summary.as_json() | ({} if compared is None else {"foreground": asdict(compared)}))
        return
    emit([
        {
            "group": group.name if group.by == "all" else f"{group.by} {group.name}", "span": name,
            "ended": f"{stage.ended} (few)" if stage.few else stage.ended, "open": stage.open,
            "p50": _text(stage.p50), "p95": _text(stage.p95), "p99": _text(stage.p99),
        }
        for group in summary.groups for name, stage in group.stages.items()
    ], output, COLUMNS)  # fmt: skip
    if output is Form.TABLE:
        say("\n" + "\n".join((
            f"Seconds, with 95 % intervals. few: fewer than {FEW} ended. open: not ended, or cut by a cancel.",
            (f"Ends without a webhook within 30 s: {_missed(summary.control)} of the control group, "
            f"{_missed(summary.others)} of all others."),
            *(() if compared is None else ((f"{compared.asked} requests, in the background and in the foreground. "
                                           f"Run time: {verdict(compared.run)}"),)),
        )))  # fmt: skip


def _text(interval: Interval) -> str:
    if interval.value is None:
        return "not known"
    low, high = (_s(bound) for bound in (interval.low, interval.high))
    return f"{_s(interval.value)} [{low}, {high}]"


def _s(value: float | None) -> str:
    return "?" if value is None else f"{value / 1_000:.3g}"


def _missed(misses: Misses) -> Any:
    share = misses.share
    if share.value is None or share.low is None or share.high is None:
        return "no end"
    return f"{misses.missed} of {misses.ends} ({share.value:.1%}, {share.low:.1%} to {share.high:.1%})"
