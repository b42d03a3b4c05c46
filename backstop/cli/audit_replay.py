"""`backstop audit replay`: what a range of the log would have cost and brought under another policy. Sends nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from backstop.audit.bundle import BundleReader
from backstop.audit.isolation import sealed
from backstop.audit.whatif.compare import ASSUMED, Comparison, compare
from backstop.audit.whatif.figures import Figures
from backstop.audit.whatif.policy import Policy, PolicyFileError, parse_policy
from backstop.audit.whatif.recorded import RangeReading, Recorded, ReplayRangeError
from backstop.cli.output import DIFFERS, DONE, Form, Output, Quiet, emit, emit_one, fail, say, tell
from backstop.cli.reading import FromBundle, Tell, reading
from backstop.cli.settings import bootstrap_settings
from backstop.cli.times import point_in_time
from backstop.readmodel.settings import ProjectionSettings
from backstop.runtime.kafka.topic_reader import TopicReader, open_reader
from backstop.runtime.process.clock import make_clock
from backstop.runtime.read_settings import read
from backstop.runtime.records import Record
from schemas.base import Terms, Usage
from streams.policy.prices import LONG_INPUT_TOKENS, Priced, Prices, Used, dollars

COLUMNS: Final = ("figure", "was", "would_be", "change", "least", "most")
LOGS: Final = ("jobs", "responses", "results")
SKEW_MS: Final = 60_000
"""A record may be stamped by so much earlier than the submission in it."""

Since = Annotated[
    str, typer.Option(help="First submission: ISO time (UTC), unix milliseconds, or how long ago: 90s, 5m, 2h, 1d.")
]
Until = Annotated[str, typer.Option(help="Submissions before this time. Forms as of --since.")]


def range_ms(since: str, until: str) -> tuple[int, int]:
    """First and last time, Unix milliseconds. Ends the command where there is no time between them."""
    now_ms = make_clock()()
    since_ms, until_ms = point_in_time(since, now_ms), point_in_time(until, now_ms)
    if since_ms >= until_ms:
        fail("--since must be earlier than --until")
    return since_ms, until_ms


def replay(
    policy: Annotated[
        Path, typer.Option("--policy", help="TOML file with the sections [polling], [retry], [hedging].")
    ],
    since: Since,
    until: Until = "0s",
    bundle: FromBundle = None,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Refold a past range with another polling, retry or hedging policy, and print what would have been otherwise.

    Nothing is sent: no poll, no create, no record. Exit 1: the range is empty, or the log does not hold it whole.
    """
    since_ms, until_ms = range_ms(since, until)
    wanted, prices = _policy(policy), read(ProjectionSettings).prices()
    try:
        recorded = from_bundle(bundle, since_ms, until_ms) if bundle else from_topics(since_ms, until_ms, quiet=quiet)
        with sealed():
            found = compare(recorded, wanted)
    except ReplayRangeError as error:
        fail(str(error), DIFFERS)
    _print(found, wanted, prices, datetime.fromtimestamp(since_ms / 1_000, UTC).date(), output, quiet=quiet)
    raise typer.Exit(DONE)


def _policy(file: Path) -> Policy:
    try:
        return parse_policy(file.read_text("utf-8"))
    except UnicodeDecodeError:
        fail(f"{file} is no policy: it is not UTF-8 text")
    except PolicyFileError as error:
        fail(f"{file} is no policy: {error}")


def from_bundle(file: Path, since_ms: int, until_ms: int) -> Recorded:
    """The range from a bundle, which is read twice: `jobs` must come first.

    :raises ConfigurationError: the file is not a bundle, or was changed.
    :raises ReplayRangeError: see `RangeReading`.
    """
    bundle = BundleReader(file)
    found: RangeReading | None = None
    for first in (True, False):
        for batch in bundle.batches():
            found = found or RangeReading(since_ms, until_ms, whole=bundle.scope == "all")
            if (batch[0].topic == "jobs") is first and batch[0].topic in LOGS:
                found.take(batch)
    if found is None:
        raise ReplayRangeError(f"{file} holds no record")
    return found.done()


def from_topics(since_ms: int, until_ms: int, *, quiet: bool) -> Recorded:
    """The range from the topics.

    :raises BrokerUnavailableError: no broker answers.
    :raises ReplayRangeError: see `RangeReading`; or the logs begin later than the range.
    """
    settings = bootstrap_settings()

    async def run() -> Recorded:
        found = RangeReading(since_ms, until_ms)
        async with open_reader(settings) as reader:
            await _refuse_cut(reader, since_ms)
            with reading("replay", quiet=quiet) as progress:
                async for batch in range_of(reader, since_ms, LOGS, progress):
                    found.take(batch)
        return found.done()

    return asyncio.run(run())


async def range_of(
    reader: TopicReader, since_ms: int, topics: Sequence[str], progress: Tell
) -> AsyncIterator[list[Record]]:
    """The records of these topics since a time, one topic after the other."""
    done = 0
    for topic in topics:
        partitions = reader.partitions(topic)
        await reader.seek_time(partitions, since_ms - SKEW_MS)
        ends = await reader.ends(partitions)
        total = done + sum(max(0, end - reader.position(partition)) for partition, end in ends.items())
        async for batch in reader.read(ends):
            yield batch
            done += len(batch)
            progress(topic, done, total)


async def _refuse_cut(reader: TopicReader, since_ms: int) -> None:
    """:raises ReplayRangeError: retention has removed facts of the range."""
    partitions = [partition for topic in ("jobs", "responses") for partition in reader.partitions(topic)]
    for partition, begin in (await reader.begins(partitions)).items():
        first = await reader.peek(partition) if begin else None
        if first is not None and first.timestamp_ms > since_ms - SKEW_MS:
            at = datetime.fromtimestamp((first.timestamp_ms + SKEW_MS) / 1_000, UTC)
            raise ReplayRangeError(
                f"retention has removed records of {partition[0]}:{partition[1]} since then: name a --since of "
                f"{at:%Y-%m-%dT%H:%M:%SZ} or later"
            )


def _print(found: Comparison, policy: Policy, prices: Prices, day: date, output: Form, *, quiet: bool) -> None:
    rows = found.rows()
    costs = [_cost(each, prices, day) for each in (
        found.recorded, found.likely.figures, found.worst.figures, found.best.figures,
    )]  # fmt: skip
    rows.append(_cost_row(costs))
    if output is Form.JSON:
        emit_one({**found.as_json(), "policy": policy.model_dump(exclude_none=True), "figures": rows})
    else:
        emit(rows, output, COLUMNS)
        if output is Form.TABLE:
            say("\n" + "\n".join(_lines(found)))
    if costs[0][1] or costs[1][1]:
        tell(f"cost_usd leaves out responses without a price: {costs[0][1]} as it was, {costs[1][1]} as it would be",
             quiet=quiet)  # fmt: skip


def _lines(found: Comparison) -> list[str]:
    likely = found.likely
    lines = [
        f"{likely.estimated_polls} polls were never made: each is answered from the recorded end of its response.",
        f"{likely.moved_creates} attempts begin at another time than recorded.",
    ]
    if likely.never_created:
        lines.append(
            f"{likely.never_created} responses were never created: run time, end and tokens are drawn from the range. "
            "LEAST and MOST: none of them ends, and each completes as soon as any did."
        )
    if likely.unknown_ends:
        lines.append(
            f"{likely.unknown_ends} responses have no end in the log (they were cancelled): theirs is drawn too."
        )
    if found.results_gone:
        lines.append(f"{found.results_gone} results are not on their topic any more; the refold gives them.")
    lines += [f"Left out: {count} jobs, as {why}." for why, count in found.left_out.items()]
    lines += [f"A gap of offsets: {gap}. The facts of the range are whole." for gap in found.gaps[:3]]
    return [*lines, *ASSUMED]


def _cost(figures: Figures, prices: Prices, day: date) -> tuple[int, int]:
    """Attodollars of what has a price, and how many responses have none."""
    total = unpriced = 0
    for model, usage, terms in figures.usage.values():
        cost = cost_of(prices, model, usage, terms, day)
        total, unpriced = total + (cost or 0), unpriced + (cost is None)
    return total, unpriced


def cost_of(prices: Prices, model: str, usage: Usage, terms: Terms | None, day: date) -> int | None:
    """Attodollars of one response; None without a price."""
    return prices.cost(_priced(model, usage, terms or Terms(), day), _used(usage, terms or Terms()))


def _priced(model: str, usage: Usage, terms: Terms, day: date) -> Priced:
    return Priced(
        day, model, served=terms.model or "", tier=terms.service_tier or "", window=terms.window or "",
        long=usage.input_tokens > LONG_INPUT_TOKENS,
    )  # fmt: skip


def _used(usage: Usage, terms: Terms) -> Used:
    cached = min(usage.cached_tokens, usage.input_tokens)
    return Used(
        input_tokens=usage.input_tokens, cached_tokens=cached,
        cache_write_tokens=min(usage.cache_write_tokens or 0, usage.input_tokens - cached),
        output_tokens=usage.output_tokens, web_search_calls=terms.web_search_calls or 0,
        file_search_calls=terms.file_search_calls or 0, containers=terms.containers or 0,
    )  # fmt: skip


def _cost_row(costs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    was, likely, *_ = (cost for cost, _ in costs)
    row = {"figure": "cost_usd", "was": dollars(was), "would_be": dollars(likely), "change": dollars(likely - was)}
    bounds = [cost for cost, _ in costs[1:]]
    if min(bounds) != max(bounds):
        row |= {"least": dollars(min(bounds)), "most": dollars(max(bounds))}
    return row
