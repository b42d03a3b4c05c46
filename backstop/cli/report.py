"""`backstop report latency`: how long responses and jobs took, and how many webhooks were lost. Writes to no topic."""

import asyncio
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from backstop.audit.bundle import BundleReader
from backstop.audit.latency.page import page
from backstop.audit.latency.rows import LOGS, LatencyReading, LatencyRows, ReportRangeError
from backstop.audit.latency.statistics import Interval
from backstop.audit.latency.summary import FEW, Misses, Summary, summarize
from backstop.cli.audit_replay import FromBundle, Since, Until, range_ms, range_of
from backstop.cli.output import DIFFERS, DONE, Form, Output, Quiet, emit, emit_one, fail, say, tell
from backstop.cli.reading import reading
from backstop.cli.settings import bootstrap_settings
from backstop.runtime.kafka.topic_reader import open_reader

app = typer.Typer(help="Reports to hand on.", no_args_is_help=True, add_completion=False)

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
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Report queue, run, webhook lag, detection and total, by model, tier and hour, with 95 % confidence intervals.

    Lost webhooks are measured against the ends that polls found; without bias where `BACKSTOP_POLL_CONTROL_SHARE` sets
    a control group. Exit 1: no job was submitted in the range.
    """
    since_ms, until_ms = range_ms(since, until)
    try:
        rows = _from_bundle(bundle, since_ms, until_ms) if bundle else _from_topics(since_ms, until_ms, quiet=quiet)
    except ReportRangeError as error:
        fail(str(error), DIFFERS)
    summary = summarize(rows)
    if html is not None:
        part = html.with_name(f"{html.name}.part")
        part.write_text(page(rows, summary), "utf-8")
        part.rename(html)
        tell(f"{html}: {summary.jobs} jobs, {summary.responses} responses", quiet=quiet)
    _print(summary, output)
    raise typer.Exit(DONE)


def _from_bundle(file: Path, since_ms: int, until_ms: int) -> LatencyRows:
    """:raises ConfigurationError: the file is not a bundle, or was changed."""
    found, bundle = LatencyReading(since_ms, until_ms), BundleReader(file)
    for topic in LOGS:
        for batch in bundle.batches():
            if batch[0].topic == topic:
                found.take(batch)
    return found.done()


def _from_topics(since_ms: int, until_ms: int, *, quiet: bool) -> LatencyRows:
    settings = bootstrap_settings()

    async def run() -> LatencyRows:
        found = LatencyReading(since_ms, until_ms)
        async with open_reader(settings) as reader:
            with reading("report", quiet=quiet) as progress:
                async for batch in range_of(reader, since_ms, LOGS, progress):
                    found.take(batch)
        return found.done()

    return asyncio.run(run())


def _print(summary: Summary, output: Form) -> None:
    if output is Form.JSON:
        emit_one(summary.as_json())
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
