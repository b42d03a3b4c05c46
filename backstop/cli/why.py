"""`backstop why JOB`: in two or three sentences, what a job waits for, or why it ended, and what it cost."""

from typing import Annotated

import aiohttp
import typer

from backstop.cli.api import Url, run_against
from backstop.cli.output import DONE, Form, Output, emit_one, say
from backstop.runtime.http import api_client as http


def why(
    job_id: Annotated[str, typer.Argument(help="The job's id.")], url: Url = None, output: Output = Form.TABLE
) -> None:
    """Say what a job waits for and until when, or why it was retried, held, rejected, expired, cancelled or failed; and
    what it cost so far.
    """

    async def run(session: aiohttp.ClientSession) -> int:
        told = await http.ask(session, "GET", http.job_path(job_id, "/why"))
        if output is Form.TABLE:
            say("\n".join(told["sentences"]))
        else:
            emit_one(told)
        return DONE

    run_against(url, run)
