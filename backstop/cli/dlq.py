"""`backstop dlq list | show | retry | drop`: dead letters, the records that could not be processed.

A decision is another record on `dead-letters`, with its author and reason. Existing records are never changed.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Final, get_args

import orjson
import typer

from backstop.audit.dead_letters import (
    DeadLetterEntries,
    DeadLetterEntry,
    Selection,
    collect,
    plan_retry,
    raw_record,
    readable,
    reads_now,
)
from backstop.audit.letter_decisions import decide, put_back
from backstop.cli.job_text import clock, span
from backstop.cli.output import DIFFERS, DONE, Form, Output, Quiet, emit, emit_one, fail, say, tell
from backstop.cli.person import person
from backstop.cli.settings import bootstrap_settings
from backstop.cli.times import point_in_time
from backstop.runtime.kafka.topic_reader import open_reader
from backstop.runtime.process.clock import make_clock
from backstop.runtime.settings import RuntimeSettings
from schemas.dead_letters import DeadReason
from schemas.topics import BY_NAME

COLUMNS: Final = ("id", "age", "component", "reason", "key", "status", "detail")
SAMPLE = 5
SKEW_MS = 60_000
"""How far `at_ms` of a dead letter may be from its record's timestamp: a batch is stamped before it is sent."""

TOPIC = "dead-letters"

app = typer.Typer(
    help="Dead letters: list and show them, put them back, drop them.",
    no_args_is_help=True,
    add_completion=False,
)

Topic = Annotated[str | None, typer.Option("--topic", help="Only from this topic: jobs, requests, …")]
Reason = Annotated[str | None, typer.Option("--reason", help="Only with this reason: not_json, unknown_type, …")]
Since = Annotated[str | None, typer.Option("--since", help="Only since a time: 2h, 1d, 2026-05-01T12:30:00Z.")]
Ids = Annotated[list[str] | None, typer.Argument(help="Ids of dead letters, as `list` shows them.")]
Execute = Annotated[
    bool, typer.Option("--execute", help="Execute the plan. Without this option the plan is only shown.")
]
By = Annotated[str | None, typer.Option("--by", help="Author of the decision. Default: the user's name.")]
Why = Annotated[str, typer.Option("--why", help="Reason; kept with the decision.")]


@app.command("list")
def list_dead_letters(
    topic: Topic = None,
    reason: Reason = None,
    since: Since = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that were retried or dropped.")] = False,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """List dead letters without a decision, oldest first."""
    settings, now_ms = bootstrap_settings(), make_clock()()
    wanted = _wanted(settings, topic, reason, since, everything=everything)
    found = asyncio.run(_letters(settings, wanted.since_ms))
    letters = [letter for letter in found.letters if wanted.takes(letter, settings.topic_prefix)]
    if output is Form.TABLE:
        emit([_row(letter, settings, now_ms) for letter in letters], output, COLUMNS)
    else:
        emit([_brief(letter) for letter in letters], output, COLUMNS)
    if found.unreadable:
        tell(f"{found.unreadable} records of {settings.topic_prefix}{TOPIC} are no dead letters", quiet=quiet)


@app.command()
def show(identifier: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Show one dead letter with its original record, which may contain a prompt. Exit 1: there is no such id."""
    settings = bootstrap_settings()
    (letter,) = _named(asyncio.run(_letters(settings)), [identifier], settings)
    raw = raw_record(letter.letter)
    emit_one(
        {
            **_brief(letter),
            "at": clock(letter.letter.at_ms, day=True),
            "origin": letter.letter.origin.model_dump() if letter.letter.origin else None,
            "reads_now": reads_now(letter, settings.topic_prefix),
            "record": {
                "key": readable(raw.key),
                "headers": {name: readable(value) for name, value in raw.headers},
                "value": _json_or_text(raw.value),
                "size_bytes": None if raw.value is None else len(raw.value),
                "truncated": raw.truncated,
            },
        }
    )


@app.command()
def retry(
    ids: Ids = None,
    topic: Topic = None,
    reason: Reason = None,
    since: Since = None,
    execute: Execute = False,
    again: Annotated[bool, typer.Option("--again", help="Also those that were retried or dropped before.")] = False,
    by: By = None,
    why: Why = "",
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Put records back, unchanged, on the topics they came from. Shows the plan; --execute executes it.

    A record that still can't be processed becomes a dead letter again. Exit 1: some of the records can't be put back.
    """
    settings = bootstrap_settings()
    chosen = _chosen(settings, ids, _wanted(settings, topic, reason, since, everything=again), again=again)
    can, cannot = plan_retry(chosen, settings.topic_prefix)
    for letter, because in cannot:
        tell(f"not put back: {letter.id}: {because}")
    plan = {
        "would": "retry", "count": len(can), "by_topic": dict(Counter(item.topic for item in can)),
        "sample": [_planned(item.letter, settings) for item in can[:SAMPLE]], "executed": execute,
    }  # fmt: skip
    if execute and can:
        asyncio.run(put_back(settings, can, person(by), why, make_clock()(), "cli"))
    _print_plan(plan, output, quiet=quiet)
    raise typer.Exit(DIFFERS if cannot else DONE)


@app.command()
def drop(
    ids: Ids = None,
    topic: Topic = None,
    reason: Reason = None,
    since: Since = None,
    execute: Execute = False,
    by: By = None,
    why: Why = "",
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Mark records as not needed; `list` hides them. Shows the plan; --execute with --why executes it."""
    if execute and not why.strip():
        fail("give a reason with --why; it is kept with the decision")
    settings = bootstrap_settings()
    chosen = _chosen(settings, ids, _wanted(settings, topic, reason, since, everything=False), again=False)
    plan = {
        "would": "drop", "count": len(chosen), "by_reason": dict(Counter(letter.letter.reason for letter in chosen)),
        "sample": [_planned(letter, settings) for letter in chosen[:SAMPLE]], "executed": execute,
    }  # fmt: skip
    if execute and chosen:
        asyncio.run(decide(settings, chosen, "dropped", person(by), why, make_clock()(), "cli"))
    _print_plan(plan, output, quiet=quiet)


async def _letters(settings: RuntimeSettings, since_ms: int | None = None) -> DeadLetterEntries:
    async with open_reader(settings) as reader:
        partitions = reader.partitions(TOPIC)
        if since_ms is not None:
            await reader.seek_time(partitions, since_ms - SKEW_MS)
        return collect(await reader.read_all(partitions))


def _wanted(
    settings: RuntimeSettings, topic: str | None, reason: str | None, since: str | None, *, everything: bool
) -> Selection:
    logical = topic.removeprefix(settings.topic_prefix) if topic else None
    if logical is not None and logical not in BY_NAME:
        fail(f"there is no topic {topic}: one of {', '.join(BY_NAME)}")
    if reason is not None and reason not in get_args(DeadReason):
        fail(f"there is no reason {reason}: one of {', '.join(get_args(DeadReason))}")
    since_ms = point_in_time(since, make_clock()()) if since else None
    return Selection(logical, reason, since_ms, resolved=everything)


def _chosen(
    settings: RuntimeSettings, ids: list[str] | None, wanted: Selection, *, again: bool
) -> list[DeadLetterEntry]:
    """The chosen dead letters, by id or by filter. Giving neither is refused, so all of them are never chosen by
    mistake.
    """
    filtered = any((wanted.topic, wanted.reason, wanted.since_ms is not None))
    if bool(ids) is filtered:
        fail("give ids of dead letters, or --topic, --reason or --since")
    found = asyncio.run(_letters(settings))
    if not ids:
        return [letter for letter in found.letters if wanted.takes(letter, settings.topic_prefix)]
    letters = _named(found, ids, settings)
    decided = [letter for letter in letters if not letter.open]
    if decided and not again:
        fail(
            "; ".join(f"{letter.id} was {letter.status} by {letter.decisions[-1].author}" for letter in decided),
            DIFFERS,
        )
    return letters


def _named(found: DeadLetterEntries, ids: Sequence[str], settings: RuntimeSettings) -> list[DeadLetterEntry]:
    """Dead letters by id, with or without the prefix that `list` leaves out."""
    by_id = {letter.id: letter for letter in found.letters}
    letters = []
    for identifier in dict.fromkeys(ids):
        letter = by_id.get(identifier) or by_id.get(f"{settings.topic_prefix}{identifier}")
        if letter is None:
            fail(f"there is no dead letter {identifier}", DIFFERS)
        letters.append(letter)
    return letters


def _row(letter: DeadLetterEntry, settings: RuntimeSettings, now_ms: int) -> dict[str, Any]:
    return {
        "id": letter.id.removeprefix(settings.topic_prefix),
        "age": span(now_ms - letter.letter.at_ms),
        "component": ",".join(letter.components),
        "reason": letter.letter.reason,
        "key": letter.letter.record_key or None,
        "status": letter.status,
        "detail": letter.letter.detail,
    }


def _brief(letter: DeadLetterEntry) -> dict[str, Any]:
    return {
        "id": letter.id,
        "at_ms": letter.letter.at_ms,
        "components": letter.components,
        "reason": letter.letter.reason,
        "detail": letter.letter.detail,
        "key": letter.letter.record_key or None,
        "place": letter.place,
        "status": letter.status,
        "decisions": [one.model_dump(mode="json", exclude={"v", "type", "record_key"}) for one in letter.decisions],
    }  # fmt: skip


def _planned(letter: DeadLetterEntry, settings: RuntimeSettings) -> dict[str, Any]:
    return {"id": letter.id, "reason": letter.letter.reason, "reads_now": reads_now(letter, settings.topic_prefix)}


def _print_plan(plan: dict[str, Any], output: Form, *, quiet: bool) -> None:
    if output is not Form.TABLE:
        emit_one(plan)
        return
    done = {"retry": "put back", "drop": "dropped"}[plan["would"]]
    counts = next(plan[name] for name in ("by_topic", "by_reason") if name in plan)
    split = ", ".join(f"{name} {count}" for name, count in counts.items())
    verb = done if plan["executed"] else f"to be {done}"
    say(f"{plan['count']} {verb}" + (f" ({split})" if split else ""))
    for item in plan["sample"]:
        say(f"  {item['id']}  {item['reason']}  can be read now: {item['reads_now']}")
    if plan["count"] > len(plan["sample"]):
        say(f"  and {plan['count'] - len(plan['sample'])} more")
    if not plan["executed"]:
        tell("nothing was changed; add --execute to execute the plan", quiet=quiet)


def _json_or_text(value: bytes | None) -> Any:
    try:
        return orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return readable(value)
