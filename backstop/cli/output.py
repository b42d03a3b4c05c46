"""How every subcommand speaks: data on stdout, talk on stderr, and three exit codes."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import orjson
import typer

from backstop.runtime.process.logs import redact
from schemas.text import printable, printable_json, printable_lines

DONE = 0
"""Done, or proved."""
DIFFERS = 1
"""Asked, and the answer is a difference, a violation, or a job that did not complete."""
CANNOT = 2
"""Usage, settings, or no connection: nothing was found out."""


class Form(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


Output = Annotated[Form, typer.Option("--output", "-o", help="How data is printed on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No talk on stderr; errors are still told.")]


def tell(text: str, *, quiet: bool = False) -> None:
    """A sentence for the person at the terminal, on stderr."""
    if not quiet:
        print(printable_lines(text), file=sys.stderr, flush=True)


def say(text: str, *, end: str = "\n") -> None:
    """Text on stdout, of one line or more: what a tenant or the provider wrote does nothing to the terminal."""
    print(printable_lines(text), end=end, flush=True)


def fail(text: str, code: int = CANNOT) -> NoReturn:
    """Say why not, on stderr, and leave with `code`."""
    print(redact(printable_lines(f"backstop: {text}")), file=sys.stderr, flush=True)
    raise typer.Exit(code)


def emit(rows: Sequence[Mapping[str, Any]], form: Form, columns: Sequence[str]) -> None:
    """Rows on stdout: as a table of `columns`, as one JSON array, or as one JSON object a line."""
    match form:
        case Form.JSON:
            sys.stdout.write(_json(list(rows), orjson.OPT_INDENT_2))
        case Form.JSONL:
            sys.stdout.writelines(_json(row) for row in rows)
        case Form.TABLE:
            sys.stdout.write(table(rows, columns))
    sys.stdout.flush()


def emit_one(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout, for people and programs alike."""
    sys.stdout.write(_json(value, orjson.OPT_INDENT_2))
    sys.stdout.flush()


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Aligned columns under upper-case heads, two spaces apart; nothing but text, so that `awk` and `cut` work."""
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
