"""`backstop jobs change | retry`: many open jobs get another priority or deadline, many ended jobs a second chance."""

from typing import Annotated, Any, Final, Literal

import aiohttp
import typer

from backstop.cli import bulk
from backstop.cli.api import Url, run_against
from backstop.cli.output import Form, Output, Quiet, fail
from backstop.cli.times import time_ahead
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.process.clock import make_clock

Ids = Annotated[list[str] | None, typer.Argument(metavar="[JOB]...", help="Ids of jobs.")]
Session = Annotated[str | None, typer.Option("--session", help="Jobs of this session.")]
Tag = Annotated[str | None, typer.Option("--tag", help="Jobs with this tag.")]
Model = Annotated[str | None, typer.Option("--model", help="Jobs of this model.")]
State = Annotated[list[str] | None, typer.Option("--state", help="Jobs in this state; several times.")]
Everything = Annotated[bool, typer.Option("--all", help="All jobs of the tenant in a fitting state.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Another tenant's jobs; needs the scope `admin`.")]
Execute = Annotated[
    bool, typer.Option("--execute", help="Execute the plan. Without this option the plan is only shown.")
]
Why = Annotated[str | None, typer.Option("--why", "--reason", help="Reason; kept with each job.")]
By = Annotated[str | None, typer.Option("--by", help="Author of the decision. Default: the user's name.")]
Rate = Annotated[int, typer.Option("--rate", min=1, max=10_000, help="Most jobs a second.")]
Class = Annotated[Literal["interactive", "normal", "bulk"] | None, typer.Option("--priority", help="Their priority.")]

NOTHING_CHOSEN: Final = "give ids of jobs, or --session, --tag, --model or --state, or --all"


def change(
    ids: Ids = None,
    session_id: Session = None,
    tag: Tag = None,
    model: Model = None,
    status: State = None,
    everything: Everything = False,
    tenant: Tenant = None,
    priority: Class = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            "--deadline", help="Their deadline: 2026-05-01T12:30:00Z, unix milliseconds, or from now: 90s, 2h."
        ),
    ] = None,
    execute: Execute = False,
    why: Why = None,
    by: By = None,
    rate_per_s: Rate = 200,
    url: Url = None,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Change priority or deadline of open jobs.

    Shows the plan; --execute with --why executes it. A deadline that has passed ends the jobs as expired. Exit 1: some
    of the given ids are no open jobs.
    """
    if priority is None and deadline is None:
        fail("give --priority, --deadline or both")
    values: dict[str, Any] = {} if priority is None else {"priority": priority}
    if deadline is not None:
        try:
            values["deadline_at_ms"] = time_ahead(deadline, make_clock()())
        except ConfigurationError as error:
            fail(str(error))
    wanted = {**chosen(ids, session_id, tag, model, status, tenant, everything=everything), **values}
    run_many(bulk.CHANGE, wanted, url, output, why=why, by=by, rate_per_s=rate_per_s, execute=execute, quiet=quiet)


def retry(
    ids: Ids = None,
    session_id: Session = None,
    tag: Tag = None,
    model: Model = None,
    status: State = None,
    everything: Everything = False,
    tenant: Tenant = None,
    priority: Class = None,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", min=1, help="Seconds from the retry to its deadline.")
    ] = None,
    execute: Execute = False,
    why: Why = None,
    by: By = None,
    rate_per_s: Rate = 50,
    url: Url = None,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Repeat ended jobs, each as a new job that names the ended one. A job gets one retry, however often this is run.

    Without --state: those that failed or expired. Shows the plan; --execute with --why executes it. Exit 1: some of the
    given ids can't be retried.
    """
    values: dict[str, Any] = {} if priority is None else {"priority": priority}
    if timeout_s is not None:
        values["timeout_ms"] = round(timeout_s * 1000)
    wanted = {**chosen(ids, session_id, tag, model, status, tenant, everything=everything), **values}
    run_many(bulk.RETRY, wanted, url, output, why=why, by=by, rate_per_s=rate_per_s, execute=execute, quiet=quiet)


def chosen(
    ids: list[str] | None, session_id: str | None, tag: str | None, model: str | None, status: list[str] | None,
    tenant: str | None, *, everything: bool, nothing: str = NOTHING_CHOSEN,
) -> dict[str, Any]:  # fmt: skip
    """The fields that choose jobs. Ends the command where they choose none (with the sentence `nothing`), or in two
    ways.
    """
    given = {"session_id": session_id, "tag": tag, "model": model, "status": status, "everything": everything or None}
    filtered = {name: value for name, value in given.items() if value}
    if not ids and not filtered:
        fail(nothing)
    if ids and filtered:
        fail("give ids of jobs, or options that choose them, not both")
    fields: dict[str, Any] = {"ids": ids} if ids else filtered
    return fields if tenant is None else {**fields, "tenant": tenant}


def run_many(
    action: bulk.Action, wanted: dict[str, Any], url: str | None, output: Form, *,
    why: str | None, by: str | None, rate_per_s: int, execute: bool, quiet: bool,
) -> None:  # fmt: skip
    """Show the plan, or execute it. Ends the command where it is to be executed without a reason."""
    if execute and (why is None or not why.strip()):
        fail("give a reason with --why; it is kept with each job")

    async def run(session: aiohttp.ClientSession) -> int:
        if execute:
            return await bulk.execute(
                session, action, wanted, output, why=why or "", by=by, rate_per_s=rate_per_s, quiet=quiet
            )  # fmt: skip
        return await bulk.show_plan(session, action, wanted, output, quiet=quiet)

    run_against(url, run)
