"""Runs a command against the HTTP API of a running Backstop: finds its address, and turns errors into exit codes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

import aiohttp
import typer

from backstop.cli.following import NotFoundError
from backstop.cli.output import CANNOT, DIFFERS, fail
from backstop.dev.state import read_state, state_folder
from backstop.runtime.http import api_client as http
from backstop.runtime.http.api_client import ApiError

URL_DEFAULT = "http://127.0.0.1:8080"

Url = Annotated[
    str | None,
    typer.Option(
        envvar="BACKSTOP_URL",
        help=f"Address of the API. Default: the running `backstop dev` of this folder, else {URL_DEFAULT}.",
    ),
]


def run_against(url: str | None, command: Callable[[aiohttp.ClientSession], Awaitable[int]]) -> None:
    """Run one command against the API, then exit with its code."""
    base = url or _dev_url() or URL_DEFAULT

    async def run() -> int:
        async with aiohttp.ClientSession(base, headers=http.authorization()) as session:
            return await command(session)

    try:
        code = asyncio.run(run())
    except ApiError as error:
        if error.status == 0:
            fail(f"{base}: {error}. Is it running? Start it with `backstop dev`, or give --url.")
        fail(str(error), CANNOT if error.passing or error.of_input else DIFFERS)
    except NotFoundError as error:
        fail(str(error), DIFFERS)
    except (aiohttp.InvalidURL, ValueError) as error:
        fail(f"{base} is not a URL: {error}")
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)


def _dev_url() -> str | None:
    state = read_state(state_folder())
    return state.url if state else None
