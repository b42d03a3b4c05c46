"""Output of every subcommand: data on stdout, messages on stderr, and three exit codes."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import orjson
import typer

from backstop.runtime.process.redaction import redact
from schemas.text import printable, printable_json, printable_lines

DONE = 0
"""Success, or proved."""
DIFFERS = 1
"""The command ran and found a difference, a violation, or a job that did not complete."""
CANNOT = 2
"""Wrong usage, wrong settings, or no connection: the command has no answer."""


class Form(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


Output = Annotated[Form, typer.Option("--output", "-o", help="Format of the data on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors on stderr.")]


def tell(text: str, *, quiet: bool = False) -> None:
    """Print a message for the user on stderr."""
    if not quiet:
        print(printable_lines(text), file=sys.stderr, flush=True)


def say(text: str, *, end: str = "\n") -> None:
    """Print text on stdout, one line or more. Control sequences in text of tenants or the provider are made
    harmless.
    """
    print(printable_lines(text), end=end, flush=True)


def fail(text: str, code: int = CANNOT) -> NoReturn:
    """Print the reason on stderr, and exit with `code`."""
    print(redact(printable_lines(f"backstop: {text}")), file=sys.stderr, flush=True)
    raise typer.Exit(code)


def emit(rows: Sequence[Mapping[str, Any]], form: Form, columns: Sequence[str]) -> None:
    """Print rows on stdout: as a table of `columns`, as one JSON array, or as one JSON object per line."""
    match form:
        case Form.JSON:
            sys.stdout.write(_json(list(rows), orjson.OPT_INDENT_2))
        case Form.JSONL:
            sys.stdout.writelines(_json(row) for row in rows)
        case Form.TABLE:
            sys.stdout.write(table(rows, columns))
    sys.stdout.flush()


def emit_one(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout, in every format."""
    sys.stdout.write(_json(value, orjson.OPT_INDENT_2))
    sys.stdout.flush()


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Aligned columns below upper-case heads, two spaces apart. Plain text, so that `awk` and `cut` work."""
    lines = [[name.upper().replace("_", " ") for name in columns]]
    lines += [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "".join("  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


def _json(value: Any, option: int = 0) -> str:
    return printable_json(orjson.dumps(value, option=option, default=str).decode()) + "\n"
