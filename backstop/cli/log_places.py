"""The places of a job's records, from the read model that this machine can reach."""

from backstop.audit.places import Places
from backstop.cli.output import tell
from backstop.cli.read_rows import read_model_url
from backstop.readmodel.log_places import log_places
from backstop.readmodel.opening import database_at
from backstop.runtime.errors import BackstopError, ConfigurationError
from backstop.runtime.process.clock import make_clock


async def known_places(identifier: str) -> Places | None:
    """None: there is no read model, it does not know the id, or it can't be asked (then stderr says why)."""
    try:
        url = read_model_url()
    except ConfigurationError:
        return None
    database = database_at(url, make_clock())
    try:
        found = await database.read(lambda conn: log_places(conn, identifier))
    except BackstopError as error:
        tell(f"whole partitions are read, as the read model can't be asked: {error}")
        return None
    finally:
        await database.close()
    if found is None:
        return None
    return Places(found.job_id, found.offsets, found.applied, found.responses | {found.job_id})
