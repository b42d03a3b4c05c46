"""Refusals of the reads as RFC 9457 problem documents, in the shape that the other doors use."""

from http import HTTPStatus

import orjson
from aiohttp import web

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def problem(status: int, code: str, detail: str, **headers: str) -> web.Response:
    """`code` names the problem for programs, `detail` for people."""
    document = {
        "type": f"urn:backstop:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    return web.Response(
        status=status,
        body=orjson.dumps(document),
        content_type="application/problem+json",
        headers={**HEADERS, **headers},
    )


def not_found(what: str) -> web.Response:
    return problem(
        404, f"{what}_not_found",
        f"There is no such {what}: it has not been taken in yet, or it ended so long ago that it is not kept any more.",
    )  # fmt: skip


def away() -> web.Response:
    """The read model's database is away; jobs go on without it."""
    return problem(
        503, "reads_unavailable", "The read model is not reachable. Jobs go on; ask again.", **{"Retry-After": "1"}
    )


def answer(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json", headers=HEADERS)
