"""The `backstop` command: one file per subcommand. A subcommand's module is imported when the subcommand is called, so
`backstop jobs` does not wait for Faust's import.
"""

import errno
import logging
import sys
import traceback
from typing import Annotated, ClassVar

import typer

from backstop.cli.lazy_commands import LazyCommands
from backstop.cli.output import CANNOT, DIFFERS
from backstop.runtime.errors import BackstopError
from backstop.runtime.process.files import private_umask
from backstop.runtime.process.leaving import left_at_once
from backstop.runtime.process.redaction import redact
from backstop.runtime.release import release
from schemas.text import printable_lines

SUBCOMMANDS = (
    "demo",
    "dev",
    "jobs",
    "find",
    "why",
    "status",
    "lanes",
    "costs",
    "report",
    "audit",
    "dlq",
    "erase",
    "topics",
    "schemas",
    "keys",
    "webhooks",
    "broker",
    "settings",
    "serve",
    "worker",
    "projection",
    "readmodel",
    "outgoing",
    "simulator",
)
"""`backstop.cli.NAME` holds a typer `app`, or a function of that name."""


PATH_ERRORS = frozenset(
    {errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EROFS}
)
"""Errors of the operating system for a wrong file or folder name."""


FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})


class _Subcommands(LazyCommands):
    modules: ClassVar = {name: f"backstop.cli.{name}" for name in SUBCOMMANDS}


app = typer.Typer(name="backstop", cls=_Subcommands, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"backstop {release()}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Follows every accepted OpenAI Background-mode job to exactly one result."""


def main() -> None:
    """Run the command line. Errors that the operator can fix are one sentence; others are bugs, with a traceback."""
    with left_at_once():
        _run()


def _run() -> None:
    private_umask()
    # Where a command shows no log, its errors are sentences; without a handler Python prints each of aiokafka's.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    try:
        app()
    except BackstopError as error:
        _complain(f"backstop: {error}")
        sys.exit(CANNOT)
    except OSError as error:
        if error.errno in FULL_ERRORS:
            _complain(
                f"backstop: {error.filename or 'a file'} could not be written: {error.strerror}. Free some space."
            )
            sys.exit(CANNOT)
        if error.errno not in PATH_ERRORS or error.filename is None:
            _complain(traceback.format_exc())
            sys.exit(DIFFERS)
        _complain(f"backstop: {error.filename}: {error.strerror}")
        sys.exit(CANNOT)
    except Exception:
        _complain(traceback.format_exc())
        sys.exit(DIFFERS)


def _complain(text: str) -> None:
    """Print an error, which may quote a secret or foreign text: secrets and control characters are removed first."""
    print(redact(printable_lines(text)), file=sys.stderr)
