"""`backstop topics create | check | list | move`: creates the topics of the table, and compares them with it."""

import asyncio
from dataclasses import asdict, replace
from enum import StrEnum
from typing import Annotated, Any, ClassVar

import typer

from backstop.cli.lazy_commands import LazyCommands
from backstop.cli.output import DIFFERS, DONE, Form, Output, Quiet, emit, say, tell
from backstop.cli.settings import bootstrap_settings
from backstop.cli.topic_exports import strimzi, terraform
from backstop.runtime.kafka.topics import TopicDifference, check_topics, create_topics, rows, wanted_topics
from backstop.runtime.settings import RuntimeSettings
from schemas.topics import BY_NAME, CHANGELOGS, FOR_EVER_MS, HOUR_MS, TOPICS


class _TopicCommands(LazyCommands):
    modules: ClassVar = {"move": "backstop.cli.topics_move"}


app = typer.Typer(cls=_TopicCommands, help="Backstop's Kafka topics.", no_args_is_help=True, add_completion=False)

Patience = Annotated[float, typer.Option(help="How many seconds to wait for a broker.")]
DIFFERENCE_COLUMNS = ("topic", "setting", "found", "wanted", "fatal", "advice")


@app.command()
def create(output: Output = Form.TABLE, quiet: Quiet = False, patience_s: Patience = 10.0) -> None:
    """Create missing topics; existing ones are not changed. Exit 1: an existing topic has a wrong setting."""
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
    """Compare the topics with the table. Exit 0: equal; 1: they differ; 2: no broker answers."""
    settings = bootstrap_settings()
    differences = asyncio.run(check_topics(settings, patience_s))
    if output is not Form.TABLE or differences:
        emit(rows(differences), output, DIFFERENCE_COLUMNS)
    else:
        tell(f"{len(wanted_topics(settings))} topics at {settings.kafka_bootstrap_servers} are as wanted", quiet=quiet)
    raise typer.Exit(DIFFERS if differences else DONE)


class ListForm(StrEnum):
    """The forms of `list`: those of every command, and two for the tools of platform teams."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    TERRAFORM = "terraform"
    STRIMZI = "strimzi"


@app.command("list")
def list_topics(
    output: Annotated[ListForm, typer.Option("--output", "-o", help="Format of the data on stdout.")] = ListForm.TABLE,
    cluster: Annotated[str, typer.Option(help="Name of the `Kafka` resource, for `strimzi`.")] = "kafka",
) -> None:
    """Print the table of topics, with prefix and partition counts from the settings, and the requests topics of
    tenants. `terraform` and `strimzi`: as files for the tools that make topics.

    Connects to no broker.
    """
    settings = bootstrap_settings()
    match output:
        case ListForm.TERRAFORM:
            say(terraform(wanted_topics(settings)), end="")
        case ListForm.STRIMZI:
            say(strimzi(wanted_topics(settings), cluster), end="")
        case form:
            columns = ("name", "key", "partitions", "retention_h", "cleanup", "written_by")
            emit(_rows(settings), Form(form.value), columns)


def _rows(settings: RuntimeSettings) -> list[dict[str, Any]]:
    of_tenants = [replace(BY_NAME["requests"], written_by=(tenant,)) for tenant in settings.request_tenants]
    return [
        {
            **asdict(topic),
            "name": wanted.name,
            "partitions": wanted.partitions,
            "retention_h": "for ever" if topic.retention_ms == FOR_EVER_MS else topic.retention_ms // HOUR_MS,
            "written_by": ", ".join(topic.written_by),
            "config": dict(wanted.config),
        }
        for topic, wanted in zip((*TOPICS, *CHANGELOGS, *of_tenants), wanted_topics(settings), strict=True)
    ]


def _tell_differences(differences: tuple[TopicDifference, ...], quiet: bool) -> None:
    for difference in differences:
        tell(("error: " if difference.fatal else "note: ") + str(difference), quiet=quiet and not difference.fatal)


def _code(differences: tuple[TopicDifference, ...]) -> int:
    return DIFFERS if any(difference.fatal for difference in differences) else DONE
