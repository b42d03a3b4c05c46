"""Serves the page's files, read once at start, with a security policy that allows no other script."""

import hashlib
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Final

from aiohttp import hdrs, web

ROOT: Final = "/ui"
START: Final = "index.html"
KINDS: Final = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip

POLICY: Final = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    # Text can't become markup or code, even by a bug of the page.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # The browser asks each time and gets a 304, so a new release is shown at once.
    "Cache-Control": "no-cache",
}


def add_page(app: web.Application) -> None:
    """Put the page on `app`, at `/ui`. These routes need no key."""
    for file in resources.files("backstop.page").joinpath("static").iterdir():
        kind = KINDS.get(file.name[file.name.rfind(".") :])
        if kind is None:
            continue
        show = _shown(file.read_bytes(), kind)
        app.router.add_get(f"{ROOT}/{file.name}", show)
        if file.name == START:
            app.router.add_get(ROOT, show)
            app.router.add_get(f"{ROOT}/", show)


def _shown(content: bytes, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, hdrs.CONTENT_TYPE: kind, hdrs.ETAG: tag}

    async def show(request: web.Request) -> web.Response:
        if request.headers.get(hdrs.IF_NONE_MATCH) == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=content, headers=headers)

    return show
