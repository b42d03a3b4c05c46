"""How a job is called by its tenant, and on the topics."""

from schemas.base import DEFAULT_TENANT


def qualified_job_id(tenant: str, given: str) -> str:
    """The job id under which a tenant's own id is kept. The default tenant's ids stay as they are; any other tenant's
    get its name before them, so that no tenant can name another's job.
    """
    return given if tenant == DEFAULT_TENANT else f"{tenant}:{given}"


def own_job_id(tenant: str, job_id: str) -> str:
    """The other way: what the tenant calls the job. This is what it gets to see."""
    return job_id if tenant == DEFAULT_TENANT else job_id.removeprefix(f"{tenant}:")
