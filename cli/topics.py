"""`backstop topics create | check`: the topics of the table, made and compared."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

import typer

from cli.settings import bootstrap_settings
from cli.talk import DIFFERS, DONE, Form, Output, Quiet, emit, tell
from runtime.settings import RuntimeSettings
from runtime.topics import Difference, check_topics, create_topics, rows, wanted_topics
from schemas.topics import TOPICS

app = typer.Typer(help="The Kafka topics that Backstop lives on.", no_args_is_help=True)

Patience = Annotated[float, typer.Option(help="How many seconds to wait for a broker.")]
DIFFERENCE_COLUMNS = ("topic", "setting", "found", "wanted", "fatal", "advice")


@app.command()
def create(output: Output = Form.TABLE, quiet: Quiet = False, patience_s: Patience = 10.0) -> None:
    """Make the topics that are missing; others stay as they are. Exit 1 if one is not as it must be."""
    settings = bootstrap_settings()
    done = asyncio.run(create_topics(settings, patience_s))
    emit(
        [{"topic": name, "done": "created" if name in done.created else "was there"}
         for name in sorted({*done.created, *done.existing})],
        output, ("topic", "done"),
    )  # fmt: skip
    _tell_differences(done.differences, quiet)
    raise typer.Exit(_code(done.differences))


@app.command()
def check(output: Output = Form.TABLE, quiet: Quiet = False, patience_s: Patience = 10.0) -> None:
    """Compare the topics with the table. Exit 0: as wanted; 1: they differ; 2: no broker answers."""
    settings = bootstrap_settings()
    differences = asyncio.run(check_topics(settings, patience_s))
    if output is not Form.TABLE or differences:
        emit(rows(differences), output, DIFFERENCE_COLUMNS)
    else:
        tell(f"{len(wanted_topics(settings))} topics at {settings.kafka_bootstrap_servers} are as wanted", quiet=quiet)
    raise typer.Exit(DIFFERS if differences else DONE)


@app.command("list")
def list_topics(output: Output = Form.TABLE) -> None:
    """The table of topics itself, with the prefix and counts of the settings. Asks no broker."""
    settings = bootstrap_settings()
    emit([_row(settings, index) for index in range(len(TOPICS))], output, ("name", "key", "partitions", "retention_h",
         "cleanup", "written_by"))  # fmt: skip


def _row(settings: RuntimeSettings, index: int) -> dict[str, Any]:
    topic, wanted = TOPICS[index], wanted_topics(settings)[index]
    return {
        **asdict(topic),
        "name": wanted.name,
        "partitions": wanted.partitions,
        "retention_h": topic.retention_ms // 3_600_000,
        "written_by": ", ".join(topic.written_by),
        "config": dict(wanted.config),
    }


def _tell_differences(differences: tuple[Difference, ...], quiet: bool) -> None:
    for difference in differences:
        tell(("error: " if difference.fatal else "note: ") + str(difference), quiet=quiet and not difference.fatal)


def _code(differences: tuple[Difference, ...]) -> int:
    return DIFFERS if any(difference.fatal for difference in differences) else DONE
