"""Addresses that people type: `/` leads to the web page, `/docs` to the document of the API as a page."""

from typing import Final

from aiohttp import hdrs, web

from backstop.page.routes import HEADERS, ROOT
from backstop.runtime.http.routes import Answer, Handler, Header, Route, declare


def _lead(path: str, name: str, says: str, to: str) -> tuple[Route, str]:
    answers = (Answer(302, f"To `{to}`.", headers=(Header("Location", f"`{to}`"),)),)
    return Route("GET", path, name=name, says=says, access="public", answers=answers), to


LEADS: Final = (
    _lead("/", "home", "Leads to the web page.", ROOT),
    _lead("/docs", "docs", "Leads to this document as a page for people.", f"{ROOT}/docs.html"),
)


def add_leads(app: web.Application) -> None:
    """Add these routes to `app`. They need no key."""
    for route, to in LEADS:
        declare(app, route, _leading(to))


def _leading(to: str) -> Handler:
    headers = {**HEADERS, hdrs.LOCATION: to}

    async def lead(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers=headers)

    return lead
