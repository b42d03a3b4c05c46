"""From a URL to a database; the only code that knows which kinds there are."""

from pathlib import Path

from backstop.readmodel.database import Database
from backstop.readmodel.sqlite import SqliteDatabase
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.process.clock import NowMs

SQLITE = "sqlite:///"


def database_at(url: str, now_ms: NowMs) -> Database:
    """Not opened yet; made on the first open where it is missing.

    :raises ConfigurationError: PostgreSQL is asked for, and its driver can not be imported.
    """
    if url.startswith(SQLITE):
        return SqliteDatabase(Path(url.removeprefix(SQLITE)), now_ms)
    try:
        from backstop.readmodel.postgres import PostgresDatabase  # noqa: PLC0415 - SQLite needs no driver
    except ImportError as error:
        raise ConfigurationError(
            f"PostgreSQL needs psycopg and its pool ({error}): both come with Backstop: install it again"
        ) from error
    return PostgresDatabase(url, now_ms)
