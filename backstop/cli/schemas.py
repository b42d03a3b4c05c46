"""`backstop schemas export`: the messages of the public topics, for teams that write or read them."""

from pathlib import Path
from typing import Annotated

import orjson
import typer

from backstop.cli.asyncapi import json_schemas, page
from backstop.cli.output import Quiet, tell
from backstop.cli.settings import bootstrap_settings

app = typer.Typer(help="The messages of Backstop's public topics.", no_args_is_help=True, add_completion=False)


@app.callback()
def root() -> None:
    """Keep `export` a subcommand while it is the only one."""


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; made if it is missing.")], quiet: Quiet = False
) -> None:
    """Write asyncapi.json (AsyncAPI 3) and a JSON Schema for each message. Topics have the prefix of the settings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "asyncapi.json").write_bytes(page(bootstrap_settings().topic_prefix))
    schemas = json_schemas()
    for name, schema in schemas.items():
        written = orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        (folder / f"{name}.schema.json").write_bytes(written)
    tell(f"asyncapi.json and {len(schemas)} schemas are in {folder}", quiet=quiet)
