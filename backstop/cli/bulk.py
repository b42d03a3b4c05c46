"""`backstop jobs cancel | change | retry` of many jobs: the plan, and its execution in batches with progress."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from backstop.cli.output import DIFFERS, DONE, Form, emit_one, say, tell
from backstop.cli.person import person
from backstop.runtime.http import api_client as http
from backstop.runtime.http.api_client import ApiError
from backstop.runtime.process.clock import monotonic_s

BATCH_MAX: Final = 200
TRIES_MAX: Final = 10
AGAIN_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Action:
    """What is done with many jobs, and how it is told."""

    path: str
    done: str
    """`cancelled`: also the name of the count in JSON."""
    accepted: str
    """What the log has accepted, of which the count is told as progress."""


CANCEL: Final = Action("/v1/jobs/cancel", "cancelled", "cancels")
CHANGE: Final = Action("/v1/jobs/change", "changed", "changes")
RETRY: Final = Action("/v1/jobs/retry", "retried", "retries")

_UNFIT: Final = (("not_found", "no such job"), ("not_open", "has ended"), ("not_retried", "is open or has its result"))

_LEFT: Final[Mapping[str, str]] = {
    "without_request": "its request is not stored any more",
    "refused": "its response was deleted, or its request names what it may not name now",
}
"""Why a batch left out jobs of the plan."""


async def show_plan(
    session: aiohttp.ClientSession, action: Action, wanted: Mapping[str, Any], output: Form, *, quiet: bool
) -> int:  # fmt: skip
    """Print the plan. `DIFFERS` if it leaves out some of the given ids."""
    plan = await http.ask(session, "POST", action.path, json=dict(wanted))
    if output is Form.TABLE:
        _say(plan, action)
        tell("nothing was changed; add --execute to execute the plan", quiet=quiet)
    else:
        emit_one({**plan, "executed": False})
    return _code(plan)


async def execute(
    session: aiohttp.ClientSession, action: Action, wanted: Mapping[str, Any], output: Form, *,
    why: str, by: str | None, rate_per_s: int, quiet: bool,
) -> int:  # fmt: skip
    """Act on them, one batch after the other, at most `rate_per_s` jobs a second. A run that was broken off may begin
    anew: what is done already is left out.
    """
    plan = await http.ask(session, "POST", action.path, json=dict(wanted))
    total = f"{plan['count']}{'+' if plan['truncated'] else ''}"
    body = {**wanted, "execute": True, "why": why, "by": person(by), "limit": min(BATCH_MAX, rate_per_s)}
    done, began_s = 0, monotonic_s()
    left: dict[str, list[str]] = {}
    while True:
        batch = await _patiently(session, action, body, quiet=quiet)
        done += batch["count"]
        for name in _LEFT:
            if name in batch:
                left.setdefault(name, []).extend(batch[name])
        if batch["count"]:
            tell(f"{done} of {total} {action.accepted} are accepted", quiet=quiet)
        if "next_cursor" not in batch:
            break
        body["cursor"] = batch["next_cursor"]
        await asyncio.sleep(max(0.0, began_s + done / rate_per_s - monotonic_s()))
    if output is Form.TABLE:
        say(f"{done} {action.done}")
        for name, job_ids in left.items():
            for job_id in job_ids:
                tell(f"not {action.done}: {job_id}: {_LEFT[name]}")
    else:
        emit_one({**plan, action.done: done, "executed": True, **left})
    return DIFFERS if left else _code(plan)


def _code(plan: Mapping[str, Any]) -> int:
    return DIFFERS if any(plan.get(name) for name, _ in _UNFIT) else DONE


async def _patiently(
    session: aiohttp.ClientSession, action: Action, body: dict[str, Any], *, quiet: bool
) -> dict[str, Any]:  # fmt: skip
    """One batch, tried again while the log or the read model is away: a repeat is harmless."""
    for tried in range(1, TRIES_MAX + 1):
        try:
            return await http.ask(session, "POST", action.path, json=body)
        except ApiError as error:
            if not error.passing or tried == TRIES_MAX:
                raise
            tell(f"{error}; trying again", quiet=quiet)
            await asyncio.sleep(AGAIN_S)
    raise AssertionError("the last try returns or raises")


def _say(plan: dict[str, Any], action: Action) -> None:
    split = ", ".join(f"{status} {count}" for status, count in plan["by_status"].items())
    more = " or more" if plan["truncated"] else ""
    say(f"{plan['count']}{more} to be {action.done}" + (f" ({split})" if split else ""))
    if plan["count"]:
        models = ", ".join(f"{model or 'unknown'} {count}" for model, count in plan["by_model"].items())
        say(f"  models: {models}")
        for text in _told(plan, action):
            say(f"  {text}")
    if plan.get("unchanged"):
        say(f"  {plan['unchanged']} besides have these values already")
    if plan.get("retried_before"):
        say(f"  {plan['retried_before']} besides have a retry already")
    if plan["without_estimate"]:
        say(f"  {plan['without_estimate']} have a model without a known cost")
    for job_id in plan["sample"]:
        say(f"  {job_id}")
    if plan["count"] > len(plan["sample"]):
        say(f"  and {plan['count'] - len(plan['sample'])} more")
    for name, words in _UNFIT:
        for job_id in plan.get(name, ()):
            tell(f"not {action.done}: {job_id}: {words}")


def _told(plan: dict[str, Any], action: Action) -> list[str]:
    """What the plan says of jobs that run, and of costs."""
    told = []
    if action is CANCEL:
        told.append(f"{plan['running']} run at the provider; what they used may be charged")
    elif "running" in plan:
        told.append(f"{plan['running']} run at the provider; a new priority counts for later attempts only")
    if plan.get("ending"):
        told.append(f"{plan['ending']} end at once as expired: the deadline has passed")
    costs = [
        ("running_cost_usd", "those would cost about"),
        ("waiting_cost_usd", "the others, saved, about" if action is CANCEL else "the others about"),
        ("cost_usd", "they would cost about"),
    ]
    return [*told, *(f"{words} ${plan[name]}" for name, words in costs if name in plan)]
