"""Refusals of the reads as RFC 9457 problem documents, in the shape of `receiver.problems`."""

from http import HTTPStatus

import orjson
from aiohttp import web

from receiver.problems import READS_AWAY

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def problem(status: int, code: str, detail: str, **headers: str) -> web.Response:
    """A problem document: `code` is for programs, `detail` for people."""
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
        f"There is no such {what}: it does not exist, is not visible yet, or ended too long ago to be stored.",
    )  # fmt: skip


def away() -> web.Response:
    """503: the read model's database is not reachable. Jobs do not depend on it."""
    return problem(
        503,
        "reads_unavailable",
        f"{READS_AWAY} Jobs are not affected.",
        **{"Retry-After": "1"},
    )


def answer(value: object, status: int = 200) -> web.Response:
    return answer_of(orjson.dumps(value), status)


def answer_of(text: bytes, status: int = 200) -> web.Response:
    """The answer for a value whose JSON is known."""
    return web.Response(status=status, body=text, content_type="application/json", headers=HEADERS)
