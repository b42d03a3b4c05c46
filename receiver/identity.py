"""Who is speaking. The one place that decides the tenant of a request; API keys will be checked here."""

from aiohttp import web

from schemas.base import DEFAULT_TENANT


def tenant_of(_request: web.Request) -> str:
    """The tenant, never from the body or from a header that a caller may choose. For now there is one."""
    return DEFAULT_TENANT
