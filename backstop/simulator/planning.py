"""Plans a response at its acceptance: how long it runs, and how it ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, get_args

from backstop.simulator.catalogue import ArmedFault
from backstop.simulator.chance import Chance
from backstop.simulator.config import Profile
from backstop.simulator.records import Around, CreateRequest, Ending, ErrorForm, ObjectForm, RunPlan, UsageForm
from backstop.simulator.replies import parse_code

DEFAULT_SLOW_FACTOR: Final = 10.0
# Argument: the word in place of OpenAI's.
_OTHER_WORDS: Final = {"unknown_status": ("in_progress", "paused"), "odd_end": ("completed", "succeeded")}
# From acceptance; `soonest` has none.
WINDOWS_S: Final = {"2h": 7200.0, "8h": 28_800.0}
_SHOWN: Final = {
    "output_null": ObjectForm(output="null"),
    "output_absent": ObjectForm(output="absent"),
    "no_metadata": ObjectForm(metadata=False),
    "bare_object": ObjectForm(bare=True),
    "odd_words": ObjectForm(words={"queued": "pending", "in_progress": "running"}),
}


def make_plan(
    request: CreateRequest,
    profile: Profile,
    chance: Chance,
    key: str,
    fault: ArmedFault | None,
    wave_factor: float,
    *,
    is_continued: bool,
) -> RunPlan:
    """The run of one response. `key` seeds its draws; `fault` is its run fault, if any; `is_continued`: its
    continuation id was seen before.
    """
    model = profile.model(request.model)
    tier = request.body.get("service_tier") or "auto"
    factor = model.tiers.get(tier, 1.0) * wave_factor
    queue_s = request.queue_s
    if queue_s is None:
        waits = model.windows.get(request.window or "", model.queue)
        queue_s = chance.seconds(waits, "queue", key) * factor * (model.continued_factor if is_continued else 1.0)
    run_s = request.run_s
    if run_s is None:
        run_s = chance.seconds(model.run, "run", key) * factor
    plan = RunPlan(queue_s, run_s, Ending())
    struck = plan if fault is None else _struck(plan, fault)
    return _within_window(struck, WINDOWS_S.get(request.window or ""), is_missed=_is(fault, "missed_window"))


def _within_window(plan: RunPlan, window_s: float | None, *, is_missed: bool) -> RunPlan:
    """A run that is longer than its completion window fails at the window's end; so does one that must miss it."""
    if window_s is None or plan.queue_s is None:
        return plan
    if is_missed:
        return replace(plan, queue_s=window_s, run_s=0.0)
    if plan.run_s is None or plan.queue_s + plan.run_s <= window_s:
        return plan
    queue_s = min(plan.queue_s, window_s)
    return replace(plan, queue_s=queue_s, run_s=window_s - queue_s, ending=_ENDINGS["missed_window"])


def _is(fault: ArmedFault | None, what: str) -> bool:
    return fault is not None and fault.what == what


def _struck(plan: RunPlan, fault: ArmedFault) -> RunPlan:
    shown = _shown(fault)
    if shown is not None:
        # An unknown status comes without a webhook, and a run without an end has none.
        ending = _ENDINGS.get(fault.what, plan.ending)
        return replace(plan, shown=shown, ending=ending, run_s=None if fault.what == "unknown_status" else plan.run_s)
    match fault.what:
        case "stuck_queued":
            return replace(plan, queue_s=None)
        case "stuck_in_progress":
            return replace(plan, run_s=None)
        case "slow":
            factor = fault.number(DEFAULT_SLOW_FACTOR)
            return replace(plan, queue_s=(plan.queue_s or 0.0) * factor, run_s=(plan.run_s or 0.0) * factor)
        case "expires":
            return replace(plan, expires_after_end_s=fault.number(0.0))
        case what:
            plan = replace(plan, ending=ending_of(what.replace("_at_once", ""), fault.arg))
            return replace(plan, queue_s=0.0, run_s=0.0) if "_at_once" in what else plan


def _shown(fault: ArmedFault) -> ObjectForm | None:
    """The object's differences by a run fault, if it is one of the shape."""
    match fault.what:
        case "unknown_status" | "odd_end" as what:
            word, shown = _OTHER_WORDS[what]
            return ObjectForm(words={word: fault.arg or shown})
        case "other_id":
            return ObjectForm(other_id=True, metadata=fault.arg != "no_metadata")
        case "around":
            return ObjectForm(around=next((each for each in get_args(Around) if each == fault.arg), "envelope"))
        case "odd_usage":
            return ObjectForm(usage=next((each for each in get_args(UsageForm) if each == fault.arg), "floats"))
        case "odd_error":
            return ObjectForm(error=next((each for each in get_args(ErrorForm) if each == fault.arg), "null"))
        case what:
            return _SHOWN.get(what)


def ending_of(what: str, arg: str | None) -> Ending:
    """The end of a run fault, with its argument: a reason, or `CODE[/WAIT]`."""
    ending = _ENDINGS[what]
    if ending.status == "incomplete":
        return ending if arg is None else replace(ending, reason=arg)
    code, wait_s = parse_code(arg if arg is not None else ending.code or "")
    return replace(ending, code=code, wait_s=wait_s)


_ENDINGS: Final = {
    "failed": Ending("failed", "server_error", with_usage=False),
    "failed_usage": Ending("failed", "server_error"),
    "odd_error": Ending("failed", "server_error", with_usage=False),
    "odd_end": Ending(webhook=False),
    "failed_no_code": Ending("failed", None, with_usage=False),
    "failed_unknown_code": Ending("failed", "flux_capacitor_error", with_usage=False),
    "missed_window": Ending("failed", "completion_window_missed", with_usage=False),
    "image_safety": Ending("failed", "image_content_policy_violation", with_usage=False, webhook=False),
    "incomplete": Ending("incomplete", reason="max_output_tokens"),
    "empty_output": Ending("completed", empty=True),
}
