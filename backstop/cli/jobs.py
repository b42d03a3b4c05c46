"""`backstop jobs submit | adopt | list | reasons | show | follow | stream | cancel`: jobs over the HTTP API of a
running Backstop. `change` and `retry`: `backstop.cli.jobs_bulk`.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import orjson
import typer

from backstop.cli import bulk, jobs_bulk
from backstop.cli.api import Url, run_against
from backstop.cli.following import follow
from backstop.cli.job_text import (
    COLUMNS,
    FACT_COLUMNS,
    REASON_COLUMNS,
    change_line,
    fact_row,
    job_row,
    job_text,
    reason_rows,
)  # fmt: skip
from backstop.cli.output import DIFFERS, DONE, Form, Output, Quiet, emit, emit_one, fail, say, tell
from backstop.cli.partials import TEXT, stream
from backstop.runtime.http import api_client as http
from backstop.runtime.process.clock import make_clock

COMPLETED = "completed"
PAGE_MAX = 200

app = typer.Typer(
    help="Submit, adopt, list, show, follow, cancel, change and retry jobs.", no_args_is_help=True, add_completion=False
)
app.command("change")(jobs_bulk.change)
app.command("retry")(jobs_bulk.retry)

JobId = Annotated[str, typer.Argument(help="The job's id.")]


@app.command()
def submit(
    file: Annotated[
        Path | None,
        typer.Argument(help="JSON: a submission, or only its request (the body of POST /responses). - reads stdin."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Model; with --input instead of a file.")] = None,
    text: Annotated[str | None, typer.Option("--input", "-i", help="Input text.")] = None,
    job_id: Annotated[
        str | None, typer.Option(help="Your own id. Submitting the same id again gives the same job.")
    ] = None,
    timeout_s: Annotated[float | None, typer.Option(min=1, help="Deadline, from now.")] = None,
    retries_max: Annotated[int | None, typer.Option(min=0, max=10, help="Most retries that may cost tokens.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens that all attempts may use together.")] = None,
    max_usd: Annotated[float | None, typer.Option(help="Dollars that all attempts may cost together.")] = None,
    fallback: Annotated[list[str] | None, typer.Option(help="A model to fall back to; several in order.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given several times.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Follow the job to its end, and print the result.")
    ] = False,
    streamed: Annotated[bool, typer.Option("--stream", help="Print the output as it arrives, to the end.")] = False,
    url: Url = None,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Submit a job and print its id. With --wait or --stream: exit 0 if it completed, 1 if it ended otherwise."""
    body = _submission(file, model, text)
    given = {
        "job_id": job_id, "retries_max": retries_max, "tags": tag, "max_tokens_spent": max_tokens,
        "max_cost_usd": max_usd, "fallback": {"to": [{"model": name} for name in fallback]} if fallback else None,
    }  # fmt: skip
    body |= {name: value for name, value in given.items() if value is not None}
    if timeout_s is not None:
        body["timeout_ms"] = int(timeout_s * 1000)

    if streamed and isinstance(body.get("request"), dict):
        body["request"] = {**body["request"], "stream": True}

    async def run(session: aiohttp.ClientSession) -> int:
        taken = await http.submit(session, body)
        if streamed:
            tell(f"{taken['job_id']} is taken", quiet=quiet)
            return await _stream(session, str(taken["job_id"]), output, quiet=quiet)
        return await _taken(session, taken, output, wait=wait, quiet=quiet)

    run_against(url, run)


@app.command()
def adopt(
    response_id: Annotated[str, typer.Argument(help="The id that the provider gave the response (resp_...).")],
    timeout_s: Annotated[float | None, typer.Option(min=1, help="Deadline, from now.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given several times.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Follow the job to its end, and print the result.")
    ] = False,
    url: Url = None,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Follow a response that was created elsewhere to one result, as a job; prints the job's id.

    Adopting the same response again gives the same job.
    """
    body: dict[str, Any] = {"response_id": response_id}
    if timeout_s is not None:
        body["timeout_ms"] = int(timeout_s * 1000)
    if tag is not None:
        body["tags"] = tag

    async def run(session: aiohttp.ClientSession) -> int:
        taken = await http.ask(session, "POST", "/v1/jobs/adopt", json=body)
        return await _taken(session, taken, output, wait=wait, quiet=quiet)

    run_against(url, run)


@app.command("list")
def list_jobs(
    status: Annotated[list[str] | None, typer.Option("--state", help="Only these; may be given several times.")] = None,
    model: Annotated[str | None, typer.Option(help="Only for this model.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag.")] = None,
    session_id: Annotated[str | None, typer.Option("--session", help="Only of this session.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most jobs to list.")] = 50,
    url: Url = None,
    output: Output = Form.TABLE,
) -> None:
    """List jobs, newest first."""
    wanted = {"model": model, "tag": tag, "session": session_id, "status": ",".join(status or [])}
    params = {name: value for name, value in wanted.items() if value}

    async def run(session: aiohttp.ClientSession) -> int:
        jobs = await _pages(session, params, limit)
        if output is Form.TABLE:
            now_ms = make_clock()()
            emit([job_row(job, now_ms) for job in jobs], output, COLUMNS)
        else:
            emit(jobs, output, COLUMNS)
        return DONE

    run_against(url, run)


@app.command()
def reasons(
    since_s: Annotated[int, typer.Option(min=1, help="Count jobs that ended in this time before now.")] = 86_400,
    url: Url = None,
    output: Output = Form.TABLE,
) -> None:
    """Show what open jobs wait for, and why jobs ended as they did: equal reasons together, the largest group first."""

    async def run(session: aiohttp.ClientSession) -> int:
        now_ms = make_clock()()
        since = {"since": str(now_ms - 1000 * since_s)}
        found = await http.ask(session, "GET", "/v1/reasons", params=since)
        if output is Form.TABLE:
            emit(reason_rows(found, now_ms), output, REASON_COLUMNS)
            if found.get("truncated"):
                tell("there are more jobs or groups than are counted here")
        else:
            emit_one(found)
        return DONE

    run_against(url, run)


@app.command()
def show(
    job_id: JobId,
    timeline: Annotated[
        bool, typer.Option("--timeline", "-t", help="Show its facts, each with its place in the log.")
    ] = False,
    url: Url = None,
    output: Output = Form.TABLE,
) -> None:
    """Show a job, with its result if it has ended; with --timeline also its facts in order."""

    async def run(session: aiohttp.ClientSession) -> int:
        if timeline:
            facts = await http.ask(session, "GET", http.job_path(job_id, "/timeline"))
            emit([fact_row(fact) for fact in facts["entries"]] if output is Form.TABLE else facts["entries"], output,
                 FACT_COLUMNS)  # fmt: skip
        else:
            _print(await http.ask(session, "GET", http.job_path(job_id)), output)
        return DONE

    run_against(url, run)


@app.command("follow")
def follow_job(job_id: JobId, url: Url = None, output: Output = Form.TABLE, quiet: Quiet = False) -> None:
    """Print each change of a job until it ends, then the job. Exit 0: completed; 1: ended otherwise."""

    async def run(session: aiohttp.ClientSession) -> int:
        return await _follow(session, job_id, output, quiet=quiet)

    run_against(url, run)


@app.command("stream")
def stream_job(job_id: JobId, url: Url = None, output: Output = Form.TABLE, quiet: Quiet = False) -> None:
    """Print the text of a job as it arrives (-o jsonl: every event). The job must have been submitted with `stream:
    true`.

    Exit 0: completed; 1: ended otherwise.
    """

    async def run(session: aiohttp.ClientSession) -> int:
        return await _stream(session, job_id, output, quiet=quiet)

    run_against(url, run)


@app.command()
def cancel(
    ids: jobs_bulk.Ids = None,
    session_id: Annotated[str | None, typer.Option("--session", help="Open jobs of this session.")] = None,
    tag: Annotated[str | None, typer.Option(help="Open jobs with this tag.")] = None,
    model: Annotated[str | None, typer.Option(help="Open jobs of this model.")] = None,
    status: Annotated[list[str] | None, typer.Option("--state", help="Open jobs in this state; several times.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All open jobs of the tenant.")] = False,
    tenant: jobs_bulk.Tenant = None,
    execute: jobs_bulk.Execute = False,
    why: jobs_bulk.Why = None,
    by: jobs_bulk.By = None,
    rate_per_s: jobs_bulk.Rate = 200,
    url: Url = None,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """End jobs with the outcome `cancelled`, and cancel their responses at the provider.

    One job by its id at once. Several ids, or jobs that fit all given options: shows the plan; --execute with --why
    executes it. Exit 1: some of the given ids are no open jobs.
    """
    wanted = jobs_bulk.chosen(
        ids, session_id, tag, model, status, tenant, everything=everything,
        nothing=f"{jobs_bulk.NOTHING_CHOSEN} for all open jobs",
    )  # fmt: skip
    if ids is None or len(ids) != 1 or tenant is not None or execute:
        jobs_bulk.run_many(
            bulk.CANCEL, wanted, url, output, why=why, by=by, rate_per_s=rate_per_s, execute=execute, quiet=quiet
        )
        return
    (job_id,) = ids

    async def run(session: aiohttp.ClientSession) -> int:
        await http.ask(session, "POST", http.job_path(job_id, "/cancel"), json={"reason": why} if why else {})
        tell(f"{job_id}: the cancel is accepted", quiet=quiet)
        return DONE

    run_against(url, run)


async def _taken(
    session: aiohttp.ClientSession, taken: dict[str, Any], output: Form, *, wait: bool, quiet: bool
) -> int:  # fmt: skip
    """Print the id of a job that was accepted, or follow it to its end."""
    if wait:
        tell(f"{taken['job_id']} is taken", quiet=quiet)
        return await _follow(session, str(taken["job_id"]), output, quiet=quiet)
    if output is Form.TABLE:
        say(taken["job_id"])
    else:
        emit_one(taken)
    return DONE


async def _follow(session: aiohttp.ClientSession, job_id: str, output: Form, *, quiet: bool) -> int:
    def changed(job: dict[str, Any]) -> None:
        if output is Form.JSONL:
            emit([job], output, COLUMNS)
        else:
            tell(change_line(job), quiet=quiet)

    job = await follow(session, job_id, changed)
    if output is not Form.JSONL:
        _print(job, output)
    return DONE if job.get("status") == COMPLETED else DIFFERS


async def _stream(session: aiohttp.ClientSession, job_id: str, output: Form, *, quiet: bool) -> int:
    attempt = 0

    def show(kind: str, data: dict[str, Any]) -> None:
        nonlocal attempt
        if output is Form.JSONL:
            emit([{"kind": kind, **data}], output, COLUMNS)
            return
        if kind == "gap":
            tell(f"\n(attempt {data['attempt']}: output is missing here: {data['reason']})", quiet=quiet)
        elif kind == "partial":
            if attempt and data["attempt"] != attempt:
                tell(f"\n(attempt {data['attempt']} starts from the beginning)", quiet=quiet)
            attempt = data["attempt"]
            if data["event"]["type"] == TEXT:
                say(data["event"]["delta"], end="")

    result = (await stream(session, job_id, show))["result"]
    if output is not Form.JSONL:
        say("")
        tell(f"{job_id}: {result['outcome']}", quiet=quiet)
    return DONE if result["outcome"] == COMPLETED else DIFFERS


async def _pages(session: aiohttp.ClientSession, params: dict[str, str], limit: int) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while len(jobs) < limit:
        page = await http.ask(
            session, "GET", "/v1/jobs", params={**params, **cursor, "limit": str(min(limit - len(jobs), PAGE_MAX))}
        )
        jobs += page.get("data", [])
        if "next_cursor" not in page:
            break
        cursor = {"cursor": str(page["next_cursor"])}
    return jobs


def _print(job: dict[str, Any], output: Form) -> None:
    if output is Form.TABLE:
        say(job_text(job))
    else:
        emit_one(job)


def _submission(file: Path | None, model: str | None, text: str | None) -> dict[str, Any]:
    if file is None:
        if model is None or text is None:
            fail("give a JSON file (or -), or both --model and --input")
        return {"request": {"model": model, "input": text}}
    if model is not None or text is not None:
        fail("give a JSON file, or --model and --input, not both")
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        value = orjson.loads(raw)
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    except orjson.JSONDecodeError as error:
        fail(f"{file} is not JSON: {error.msg} at {error.pos}")
    if not isinstance(value, dict):
        fail(f"{file} holds a JSON {type(value).__name__}, where an object was expected")
    return value if "request" in value else {"request": value}
