"""Chooses the database for a URL. The only code that knows all kinds."""

from pathlib import Path

from backstop.readmodel.database import Database
from backstop.readmodel.sqlite import SqliteDatabase
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.process.clock import NowMs

SQLITE = "sqlite:///"


def folder_of(url: str) -> Path | None:
    """The folder of the database's file; None for a database on a server."""
    return Path(url.removeprefix(SQLITE)).parent if url.startswith(SQLITE) else None


def database_at(url: str, now_ms: NowMs) -> Database:
    """A database that is not opened yet; its first `open` creates it if it is missing.

    :raises ConfigurationError: the URL is PostgreSQL's, and its driver can't be imported.
    """
    if url.startswith(SQLITE):
        return SqliteDatabase(Path(url.removeprefix(SQLITE)), now_ms)
    try:
        from backstop.readmodel.postgres import PostgresDatabase  # noqa: PLC0415 - SQLite needs no driver
    except ImportError as error:
        raise ConfigurationError(
            f"PostgreSQL needs psycopg and its pool ({error}); both come with Backstop: install it again"
        ) from error
    return PostgresDatabase(url, now_ms)
