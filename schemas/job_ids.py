"""Job ids: the tenant's own form, and the qualified form on the topics."""

from schemas.base import DEFAULT_TENANT


def qualified_job_id(tenant: str, given: str) -> str:
    """The job id on the topics for an id that a tenant chose.

    The default tenant's ids are unchanged. Ids of other tenants get the prefix `tenant:`, so that no tenant can name a
    job of another one.
    """
    return given if tenant == DEFAULT_TENANT else f"{tenant}:{given}"


def own_job_id(tenant: str, job_id: str) -> str:
    """The inverse of `qualified_job_id`: the id that is shown to the tenant."""
    return job_id if tenant == DEFAULT_TENANT else job_id.removeprefix(f"{tenant}:")
