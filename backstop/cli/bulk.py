"""`backstop jobs cancel` of many jobs: the plan, and its execution in batches with progress."""

import asyncio
import getpass
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from backstop.cli.output import DIFFERS, DONE, Form, emit_one, say, tell
from backstop.runtime.http import api_client as http
from backstop.runtime.http.api_client import ApiError
from backstop.runtime.process.clock import monotonic_s

BATCH_MAX: Final = 200
TRIES_MAX: Final = 10
AGAIN_S: Final = 2.0
PATH: Final = "/v1/jobs/cancel"


async def show_plan(session: aiohttp.ClientSession, wanted: Mapping[str, Any], output: Form, *, quiet: bool) -> int:
    """Print the plan. `DIFFERS` if some of the given ids can't be cancelled."""
    plan = await http.ask(session, "POST", PATH, json=dict(wanted))
    if output is Form.TABLE:
        _say(plan)
        tell("nothing was changed; add --execute to execute the plan", quiet=quiet)
    else:
        emit_one({**plan, "executed": False})
    return DIFFERS if plan.get("not_found") or plan.get("not_open") else DONE


async def execute(
    session: aiohttp.ClientSession, wanted: Mapping[str, Any], output: Form, *,
    why: str, by: str | None, rate_per_s: int, quiet: bool,
) -> int:  # fmt: skip
    """Cancel them, one batch after the other, at most `rate_per_s` jobs a second. A run that was broken off may begin
    anew: what is cancelled already is not listed again.
    """
    plan = await http.ask(session, "POST", PATH, json=dict(wanted))
    total = f"{plan['count']}{'+' if plan['cut'] else ''}"
    body = {**wanted, "execute": True, "why": why, "by": by or getpass.getuser(), "limit": min(BATCH_MAX, rate_per_s)}
    done, began_s = 0, monotonic_s()
    while True:
        batch = await _patiently(session, body, quiet=quiet)
        done += batch["count"]
        if batch["count"]:
            tell(f"{done} of {total} cancels are accepted", quiet=quiet)
        if "next_cursor" not in batch:
            break
        body["cursor"] = batch["next_cursor"]
        await asyncio.sleep(max(0.0, began_s + done / rate_per_s - monotonic_s()))
    if output is Form.TABLE:
        say(f"{done} cancelled")
    else:
        emit_one({**plan, "cancelled": done, "executed": True})
    return DIFFERS if plan.get("not_found") or plan.get("not_open") else DONE


async def _patiently(session: aiohttp.ClientSession, body: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """One batch, tried again while the log or the read model is away: a repeat is harmless."""
    for tried in range(1, TRIES_MAX + 1):
        try:
            return await http.ask(session, "POST", PATH, json=body)
        except ApiError as error:
            if not error.passing or tried == TRIES_MAX:
                raise
            tell(f"{error}; trying again", quiet=quiet)
            await asyncio.sleep(AGAIN_S)
    raise AssertionError("the last try returns or raises")


def _say(plan: dict[str, Any]) -> None:
    split = ", ".join(f"{status} {count}" for status, count in plan["by_status"].items())
    more = " or more" if plan["cut"] else ""
    say(f"{plan['count']}{more} to be cancelled" + (f" ({split})" if split else ""))
    if plan["count"]:
        models = ", ".join(f"{model or 'unknown'} {count}" for model, count in plan["by_model"].items())
        say(f"  models: {models}")
        say(f"  {plan['running']} run at the provider; what they used may be charged")
    for name, words in (
        ("running_cost_usd", "those would cost about"),
        ("waiting_cost_usd", "the others, saved, about"),
    ):
        if name in plan:
            say(f"  {words} ${plan[name]}")
    if plan["without_estimate"]:
        say(f"  {plan['without_estimate']} have a model without a known cost")
    for job_id in plan["sample"]:
        say(f"  {job_id}")
    if plan["count"] > len(plan["sample"]):
        say(f"  and {plan['count'] - len(plan['sample'])} more")
    for name, words in (("not_found", "no such job"), ("not_open", "has ended")):
        for job_id in plan.get(name, ()):
            tell(f"not cancelled: {job_id}: {words}")
