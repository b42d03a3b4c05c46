"""`backstop lanes list | pause | resume`: how the lanes to the provider stand, and pauses by operators."""

from collections.abc import Callable
from typing import Annotated, Any, Final

import aiohttp
import typer

from backstop.cli.api import Url, run_against
from backstop.cli.job_text import clock, span
from backstop.cli.output import DONE, Form, Output, Quiet, emit, emit_one, fail, say, table, tell
from backstop.cli.person import person
from backstop.runtime.http import api_client as http

COLUMNS: Final = ("model", "state", "since", "open_jobs", "next_probe", "because")
PAUSE_COLUMNS: Final = ("pause", "since", "by", "holds", "why")

app = typer.Typer(
    help="Lanes to the provider: list them, pause creates, resume them.", no_args_is_help=True, add_completion=False
)

Model = Annotated[str | None, typer.Option("--model", "-m", help="Creates that ask for this model.")]
Tenant = Annotated[
    str | None, typer.Option("--tenant", help="This tenant's creates. Without the scope `admin`: the key's own tenant.")
]
Tag = Annotated[str | None, typer.Option("--tag", help="Creates of jobs with this tag.")]
Account = Annotated[str | None, typer.Option("--account", help="Creates of this account, as `list` names it.")]
Everything = Annotated[bool, typer.Option("--all", help="All creates that the key may pause.")]
By = Annotated[str | None, typer.Option("--by", help="The person that decides. Default: the user's name.")]
Why = Annotated[str, typer.Option("--why", help="The reason; jobs that wait show it.")]


@app.command("list")
def list_lanes(url: Url = None, output: Output = Form.TABLE) -> None:
    """List lanes with open jobs, and the pauses in force. With the scope `admin` also lanes that are closed."""

    async def run(session: aiohttp.ClientSession) -> int:
        seen = await http.ask(session, "GET", "/v1/lanes")
        if output is Form.TABLE:
            now_ms = seen["at_ms"]
            emit([_row(lane, now_ms) for lane in seen["data"]], output, COLUMNS)
            if seen["pauses"]:
                say("")
                say(table([_pause_row(pause, now_ms) for pause in seen["pauses"]], PAUSE_COLUMNS), end="")
            if seen["truncated"]:
                tell("not all open jobs were counted")
        elif output is Form.JSONL:
            emit([*seen["data"], *seen["pauses"]], output, ())
        else:
            emit_one(seen)
        return DONE

    run_against(url, run)


@app.command()
def pause(
    why: Why,
    model: Model = None,
    tenant: Tenant = None,
    tag: Tag = None,
    account: Account = None,
    everything: Everything = False,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="Even though no stored job fits: a mistyped name is refused otherwise.")
    ] = False,
    by: By = None,
    url: Url = None,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Pause the creates that fit all given options. Jobs wait; responses that run are not touched."""
    body = {**_scope(model, tenant, tag, account, everything=everything), "by": person(by), "why": why}
    if not _names_something(body):
        fail("give --model, --tenant, --tag or --account, or --all for all creates")
    if unseen:
        body["unseen"] = True

    def told(done: dict[str, Any]) -> str:
        return f"paused: {_holds(done)} ({done['id']})"

    _send("/v1/lanes/pause", body, told, url, output, quiet=quiet)


@app.command()
def resume(
    why: Why,
    pause_id: Annotated[str | None, typer.Argument(metavar="[PAUSE]", help="Its id, as `list` shows it.")] = None,
    model: Model = None,
    tenant: Tenant = None,
    tag: Tag = None,
    account: Account = None,
    everything: Everything = False,
    by: By = None,
    url: Url = None,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """End a pause, by its id or by exactly the options that it was made with. What waited begins along a ramp."""
    body = {**_scope(model, tenant, tag, account, everything=everything), "by": person(by), "why": why}
    if (pause_id is not None) is _names_something(body):
        fail("give the id of a pause, or the options that it was made with")
    if pause_id is not None:
        body["pause_id"] = pause_id

    def told(done: dict[str, Any]) -> str:
        return f"resumed: {_holds(done)}, paused by {done['by']}: {done['why']}"

    _send("/v1/lanes/resume", body, told, url, output, quiet=quiet)


def _scope(
    model: str | None, tenant: str | None, tag: str | None, account: str | None, *, everything: bool
) -> dict[str, Any]:  # fmt: skip
    given = {"model": model, "tenant": tenant, "tag": tag, "account": account, "everything": everything or None}
    return {name: value for name, value in given.items() if value is not None}


def _names_something(body: dict[str, Any]) -> bool:
    return len(body.keys() - {"by", "why"}) > 0


def _holds(pause: dict[str, Any]) -> str:
    given = [f"{name} {pause[name]}" for name in ("account", "model", "tenant", "tag") if name in pause]
    return ", ".join(given) or "all creates"


def _row(lane: dict[str, Any], now_ms: int) -> dict[str, Any]:
    counts = [f"{status} {count}" for status, count in lane.get("open_jobs", {}).items()]
    return {
        **lane,
        "since": span(now_ms - lane["since_ms"]) if "since_ms" in lane else None,
        "open_jobs": ", ".join(counts) or None,
        "next_probe": clock(lane["next_probe_at_ms"]) if "next_probe_at_ms" in lane else None,
    }


def _pause_row(pause: dict[str, Any], now_ms: int) -> dict[str, Any]:
    return {**pause, "pause": pause["id"], "since": span(now_ms - pause["since_ms"]), "holds": _holds(pause)}


def _send(
    path: str, body: dict[str, Any], told: Callable[[dict[str, Any]], str], url: str | None, output: Form, *,
    quiet: bool,
) -> None:  # fmt: skip
    """Send a change and print the pause as it is then."""

    async def run(session: aiohttp.ClientSession) -> int:
        done = await http.ask(session, "POST", path, json=body)
        if output is Form.TABLE:
            tell(told(done), quiet=quiet)
        else:
            emit_one(done)
        return DONE

    run_against(url, run)
