"""The read model's rows for the audit: one snapshot, with the offset up to which each log was applied."""

import os
from pathlib import Path

from backstop.audit.read_rows import ReadModel, ReadRow
from backstop.dev.state import read_state, state_folder
from backstop.readmodel import store
from backstop.readmodel.database import Connection
from backstop.readmodel.opening import database_at
from backstop.readmodel.retention import removable_of
from backstop.readmodel.settings import ProjectionSettings
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.process.clock import make_clock
from backstop.runtime.read_settings import read
from schemas.codec import sha256_hex

PAGE = 1_000
SQLITE = "sqlite:///"


def read_model_url() -> str:
    """The database of the environment, else that of the running `backstop dev`.

    :raises ConfigurationError: the SQLite file does not exist. An audit creates none.
    """
    settings = read(ProjectionSettings)
    url = settings.readmodel_url
    dev = read_state(state_folder())
    if settings.database_url is None and dev is not None and "BACKSTOP_DATA_DIR" not in os.environ:
        url = f"{SQLITE}{Path(dev.logs).parent / 'readmodel.db'}"
    if url.startswith(SQLITE) and not Path(url.removeprefix(SQLITE)).exists():
        raise ConfigurationError(
            f"there is no read model at {url.removeprefix(SQLITE)}: set BACKSTOP_DATABASE_URL, or give --no-readmodel"
        )
    return url


async def read_model(url: str) -> ReadModel:
    """All rows, with the SHA-256 in place of each body.

    :raises DatabaseAwayError: the database can't be reached.
    """
    database = database_at(url, make_clock())
    try:
        return await database.read(_snapshot)
    finally:
        await database.close()


def _snapshot(conn: Connection) -> ReadModel:
    rows: dict[str, ReadRow] = {}
    submitted: dict[str, int] = {}
    after = ""
    while True:
        page = conn.rows(
            f"SELECT {store.JOB_COLUMNS} FROM jobs WHERE job_id > ? ORDER BY job_id LIMIT {PAGE}",  # noqa: S608 - ours
            (after,),
        )
        for values in page:
            row = store.row_from(values)
            at = row.position
            submitted[row.job_id] = row.submitted_at_ms
            rows[row.job_id] = ReadRow(
                status=row.status,
                version=row.version,
                state_sha256=sha256_hex(row.fold_state),
                result_sha256=None if row.result is None else sha256_hex(row.result),
                next_action_at_ms=row.next_action_at_ms,
                place=f"{at.topic}:{at.partition}:{at.offset}",
            )
        if len(page) < PAGE:
            return ReadModel(store.offsets(conn), rows, submitted, removable_of(conn).ended_before_ms)
        after = page[-1][0]
