"""`backstop find ID`: the job, response or session with this id, or with an id that begins so."""

from typing import Annotated, Any, Final

import aiohttp
import typer

from backstop.cli.api import Url, run_against
from backstop.cli.job_text import job_row
from backstop.cli.output import DIFFERS, DONE, Form, Output, emit, fail
from backstop.runtime.http import api_client as http
from backstop.runtime.process.clock import make_clock

COLUMNS: Final = ("found", "id", "job_id", "status", "model", "age", "next_action", "because")


def find(
    wanted: Annotated[str, typer.Argument(metavar="ID", help="The id, or at least its first 4 characters.")],
    url: Url = None,
    output: Output = Form.TABLE,
) -> None:
    """Find a job, a response of the provider or a session by its id. Exit 1: nothing has it."""

    async def run(session: aiohttp.ClientSession) -> int:
        hits = (await http.ask(session, "GET", "/v1/search", params={"id": wanted}))["data"]
        if not hits and output is Form.TABLE:
            fail(f"no job, response or session has the id {wanted}", DIFFERS)
        now_ms = make_clock()()
        emit([_row(hit, now_ms) for hit in hits] if output is Form.TABLE else hits, output, COLUMNS)
        return DONE if hits else DIFFERS

    run_against(url, run)


def _row(hit: dict[str, Any], now_ms: int) -> dict[str, Any]:
    job = hit.get("job")
    named = hit.get("response_id") or hit.get("session_id") or (job or {}).get("job_id")
    return {"found": hit["kind"], "id": named, **(job_row(job, now_ms) if job else {})}
