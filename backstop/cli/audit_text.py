"""The findings of an audit as text for a terminal."""

from typing import Any, Final

from backstop.audit.bundle import Contents
from backstop.audit.report import Report
from backstop.audit.timeline import Entry, StateAt
from backstop.cli.job_text import clock, fact_row

PARTITION_COLUMNS: Final = ("log", "partition", "from", "to", "facts", "rows", "refold", "table")
ENTRY_COLUMNS: Final = ("at", "kind", "where", "key", "effect", "summary")
DIGEST_CHARS = 16


def partition_rows(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "log": partition.topic,
            "partition": partition.partition,
            "from": partition.begin,
            "to": partition.end,
            "facts": partition.facts,
            "rows": partition.rows,
            "refold": partition.digest_refold[:DIGEST_CHARS],
            "table": "equal" if partition.equal else partition.digest_table[:DIGEST_CHARS],
        }
        for partition in report.partitions
    ]


def report_lines(report: Report) -> list[str]:
    """The verdict is the last line, where a terminal shows it."""
    lines = [
        f"{topic}: {counts['matched']} equal to the refold"
        + (f", {counts['repeats']} repeats" if counts["repeats"] else "")
        for topic, counts in report.outputs.items()
        if counts["matched"] or counts["repeats"]
    ]
    lines.append(
        "read model: not compared" if report.read_model_rows is None else f"read model: {report.read_model_rows} rows"
    )
    lines += [f"not covered: {count} {what}" for what, count in report.not_covered.items()]
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines += [str(difference) for difference in report.differences]
    more = sum(report.counts.values()) - len(report.differences)
    if more > 0:
        lines.append(f"and {more} more")
    if report.counts:
        found = ", ".join(f"{count} {what}" for what, count in report.counts.items())
        lines.append(f"DIFFERS: {found} ({report.took_s:g} s)")
    else:
        part = "proved" if report.complete else "proved for what the logs still hold"
        facts = sum(partition.facts for partition in report.partitions)
        lines.append(f"{part}: {facts} facts refold to the live tables, outputs and rows ({report.took_s:g} s)")
    return lines


def entry_row(entry: Entry) -> dict[str, Any]:
    row = fact_row(entry.as_json())
    return {**row, "key": entry.key, "effect": entry.effect}


def state_lines(state: StateAt) -> list[str]:
    due = "no further action is due" if state.due_ms is None else f"next action at {clock(state.due_ms, day=True)}"
    return [
        f"{state.topic}/{state.key}: {state.status}; {due}",
        f"    {state.facts} facts, the last at {clock(state.last_at_ms, day=True)} ({state.last_place})",
    ]


def contents_lines(contents: Contents) -> list[str]:
    def counts(values: Any) -> str:
        return ", ".join(f"{name} {count}" for name, count in sorted(values.items())) or "none"

    lines = [
        f"scope:    {contents.scope}",
        f"records:  {counts(contents.records)}",
        f"outputs:  {counts(contents.outputs)} (none of them was sent)",
    ]
    lines += [f"digest:   {name} {digest} ({contents.rows[name]} rows)" for name, digest in contents.digests.items()]
    lines += [f"DIFFERS:  {name} folds to rows that differ from the export's" for name in contents.differs]
    return lines
