"""`backstop status`: processes, partitions and lanes, and what holds jobs up."""

from typing import Annotated, Any, Final

import aiohttp
import typer

from backstop.cli.api import Url, run_against
from backstop.cli.job_text import clock, span
from backstop.cli.output import DIFFERS, DONE, Form, Output, emit_one, say, table
from backstop.runtime.http import api_client as http
from backstop.runtime.http.api_client import ApiError

PROCESSES: Final = ("process", "version", "parts", "partitions", "address")
PARTITIONS: Final = ("topic", "partition", "read_by", "holder", "lag", "last_moved")
NAMED_MAX: Final = 3
TOLD_AS_WRONG: Final = frozenset(
    {"broker_away", "topics_missing", "workers_missing", "workers_behind", "retention_near", "process_in_trouble"}
)
"""Findings that the status tells already."""
LANES: Final = ("model", "closed_since", "next_probe", "because")


def status(
    url: Url = None,
    output: Output = Form.TABLE,
    partitions: Annotated[
        bool, typer.Option("--partitions", "-p", help="List every partition, not only those behind.")
    ] = False,
) -> None:
    """Show what holds jobs up; what else needs attention; processes with their version and partitions; lag; lanes.

    Exit codes: 0 nothing holds jobs up, 1 something does. Needs a key with the scope operate; what else needs attention
    (of the key's tenant) needs read as well.
    """

    async def run(session: aiohttp.ClientSession) -> int:
        told = await http.ask(session, "GET", "/v1/status")
        told["findings"] = await _findings(session)
        if output is Form.TABLE:
            say(status_text(told, every=partitions))
        else:
            emit_one(told)
        return DIFFERS if told["wrong"] else DONE

    run_against(url, run)


async def _findings(session: aiohttp.ClientSession) -> list[dict[str, Any]]:
    """None where the read model, or the key, gives no answer: the status is the more needed then."""
    try:
        found: list[dict[str, Any]] = (await http.ask(session, "GET", "/v1/attention"))["findings"]
    except ApiError:
        return []
    return [each for each in found if each["code"] not in TOLD_AS_WRONG]


def status_text(told: dict[str, Any], *, every: bool = False) -> str:
    """The answer of `GET /v1/status` as text. PURE."""
    now_ms = told["at_ms"]
    broker, readmodel = told["broker"], told["readmodel"]
    wrong = [f"  {sentence}" for sentence in told["wrong"]]
    shown = [each for each in told["partitions"] if every or each["lag"] or "holder" not in each]
    parts = [
        "\n".join(["Something holds jobs up:", *wrong]) if wrong else "Nothing holds jobs up.",
        *(["Needs attention:", *(f"  {_finding(each)}" for each in found)] if (found := told.get("findings")) else []),
        f"broker:      {_count(broker['brokers'], 'broker')}, {'answers' if broker['answers'] else 'does not answer'}",
        f"read model:  {_count(readmodel['lag'], 'record')} behind"
        + (f", still for {span(readmodel['delay_ms'])}" if readmodel["delay_ms"] else ""),
        f"polls:       {told['polls_per_s']:g} per second",
        "",
        table([_process(each) for each in told["processes"]], PROCESSES).rstrip("\n"),
    ]
    if shown:
        parts += ["", table([_partition(each, now_ms) for each in shown], PARTITIONS).rstrip("\n")]
    if told["lanes"]:
        parts += ["", table([_lane(each, now_ms) for each in told["lanes"]], LANES).rstrip("\n")]
    return "\n".join(parts)


def _finding(each: dict[str, Any]) -> str:
    of = f" of {each['of']}" if "of" in each else ""
    because = f": {each['because']}" if each.get("because") else ""
    named = f" ({', '.join(each['job_ids'][:NAMED_MAX])})" if each.get("job_ids") else ""
    return f"{each['code']}, {each['count']}{of}{because}{named}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _process(each: dict[str, Any]) -> dict[str, Any]:
    return {
        "process": each["name"],
        "version": each.get("version"),
        "parts": ",".join(each["parts"]),
        "partitions": len(each["partitions"]),
        "address": each.get("address"),
    }


def _partition(each: dict[str, Any], now_ms: int) -> dict[str, Any]:
    holder = each.get("holder")
    return {
        "topic": each["topic"],
        "partition": each["partition"],
        "read_by": each["group"],
        "holder": holder if holder is not None else f"none since {clock(each.get('unassigned_since_ms'))}",
        "lag": each["lag"],
        "last_moved": f"{span(max(0, now_ms - each['moved_at_ms']))} ago",
    }


def _lane(each: dict[str, Any], now_ms: int) -> dict[str, Any]:
    left_ms = each["probe_at_ms"] - now_ms
    return {
        "model": each["model"],
        "closed_since": clock(each["since_ms"]),
        "next_probe": f"in {span(left_ms)}" if left_ms > 0 else "now",
        "because": f"{each['code']} {each['message']}".strip(),
    }
