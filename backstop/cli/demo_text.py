"""The verdict of a run: as JSON for programs, as a table for a terminal."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from backstop.dev.judge import RunVerdict, Spread


def as_json(verdict: RunVerdict, seconds: Mapping[str, float]) -> dict[str, Any]:
    """The verdict as JSON; `ok`, the first key, says whether every invariant held."""
    return {"ok": not verdict.violations, **asdict(verdict), "seconds": dict(seconds)}


def show(verdict: RunVerdict, seconds: Mapping[str, float]) -> None:
    """Print a table on stdout, and the violations below it."""
    console = Console(highlight=False)
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(verdict, seconds):
        table.add_row(name, value)
    console.print()
    console.print(table)
    console.print()
    for violation in verdict.violations:
        console.print(f"VIOLATED  {violation}", style="bold red", markup=False)
    if not verdict.violations:
        console.print(
            "every invariant held: no job lost, one result per job, every create accounted for", style="bold green"
        )


def _lines(verdict: RunVerdict, seconds: Mapping[str, float]) -> list[tuple[str, str]]:
    per_job = verdict.creates / verdict.jobs if verdict.jobs else 0.0
    unanswered = verdict.creates_unanswered
    return [
        ("jobs acknowledged", f"{verdict.jobs}  ({_counts(verdict.by_ingress)})"),
        ("results", str(verdict.results)),
        ("lost", str(verdict.lost)),
        ("duplicates", str(verdict.duplicates)),
        ("outcomes", _counts(verdict.outcomes)),
        ("end found by", _counts(verdict.found_by)),
        *(
            (f"detection, by {found_by}", _spread(spread) + "  (end at the provider → result read)")
            for found_by, spread in verdict.detection.items()
        ),
        ("added: webhook → result", _spread(verdict.webhook_to_result)),
        ("added: request → create", _spread(verdict.request_to_create)),
        (
            "creates accepted",
            f"{verdict.creates}  ({per_job:.3f} per job; {verdict.repeats} retries; {unanswered} answers lost)",
        ),
        ("creates unexplained", str(verdict.unexplained_creates)),
        ("rows that differ from their result", str(verdict.row_mismatches)),
        ("restarts", _counts(verdict.restarts)),
        ("seconds", ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())),
    ]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _spread(spread: Spread) -> str:
    if spread.p50_ms is None:
        return "not seen"
    return f"p50 {_time(spread.p50_ms)}, p99 {_time(spread.p99_ms)}, max {_time(spread.max_ms)}"


def _time(ms: int | None) -> str:
    if ms is None:
        return "-"
    return f"{ms} ms" if ms < 10_000 else f"{ms / 1000:.1f} s"
