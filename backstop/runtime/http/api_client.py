"""The command line's client of the API: JSON in, JSON out, a problem document as one error."""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from backstop.runtime.errors import BackstopError
from backstop.runtime.secret_files import secret_of

TIMEOUT_S = 30.0
INPUT_STATUSES = frozenset({400, 401, 403, 413, 415, 422})
PASSING_STATUSES = frozenset({0, 408, 429, 500, 502, 503, 504})


class ApiError(BackstopError):
    """The request was refused, or got no answer (`status` 0). `passing`: the same request may succeed later."""

    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code

    @property
    def passing(self) -> bool:
        return self.status in PASSING_STATUSES

    @property
    def of_input(self) -> bool:
        """The request or its key was refused, so it established nothing."""
        return self.status in INPUT_STATUSES


def authorization() -> dict[str, str]:
    """The header with the caller's API key; empty if the environment has none (a development system needs none)."""
    key = secret_of(os.environ, "BACKSTOP_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def job_path(job_id: str, rest: str = "") -> str:
    """The path of a job. An id with any character stays one segment of it, so that it names no other route."""
    named = quote(job_id, safe="")
    return f"/v1/jobs/{named if named.strip('.') else named.replace('.', '%252E')}{rest}"


async def submit(session: aiohttp.ClientSession, body: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
    """`POST /v1/jobs`; returns the answer.

    :raises ApiError: refused, or no answer.
    """
    headers = {"Idempotency-Key": key} if key else {}
    return await ask(session, "POST", "/v1/jobs", json=body, headers=headers)


async def ask(
    session: aiohttp.ClientSession, method: str, path: str, *, json: Any = None,
    params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One request and its answer.

    :raises ApiError: anything but a 2xx with a JSON object.
    """
    data = None if json is None else orjson.dumps(json)
    sent = {"Content-Type": "application/json"} if data is not None else {}
    try:
        async with session.request(
            method, path, data=data, params=params, headers={**sent, **(headers or {})},
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        ) as answer:  # fmt: skip
            raw = await answer.read()
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ApiError(0, "no_answer", f"no answer: {error or type(error).__name__}") from error
    value = _parsed(raw)
    if 200 <= status < 300 and isinstance(value, dict):
        return value
    raise refused(status, raw)


def refused(status: int, raw: bytes) -> ApiError:
    """The error that an answer describes."""
    value = _parsed(raw)
    if not isinstance(value, dict):
        return ApiError(status, "not_json", f"HTTP {status} without a problem document")
    sentence = str(value.get("detail") or value.get("title") or f"HTTP {status}")
    errors = value.get("errors")
    if isinstance(errors, list):
        sentence += "".join(
            f"\n  {item.get('pointer')}: {item.get('detail')}" for item in errors if isinstance(item, dict)
        )
    return ApiError(status, str(value.get("code", f"http_{status}")), sentence)


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError:
        return None
