"""Decides, when a response is accepted, how long it will take and how it will end."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from simulator.catalogue import Fault
from simulator.chance import Chance
from simulator.config import Profile
from simulator.records import CreateRequest, Ending, Plan

DEFAULT_SLOW_FACTOR: Final = 10.0


def make_plan(
    request: CreateRequest, profile: Profile, chance: Chance, key: str, fault: Fault | None, wave_factor: float
) -> Plan:
    """The run of one response; `key` seeds its draws, `fault` is the run fault that strikes it."""
    model = profile.model(request.model)
    tier = request.body.get("service_tier") or "auto"
    factor = model.tiers.get(tier, 1.0) * wave_factor
    queue_s = request.queue_s
    if queue_s is None:
        queue_s = chance.seconds(model.queue, "queue", key) * factor
    run_s = request.run_s
    if run_s is None:
        run_s = chance.seconds(model.run, "run", key) * factor
    plan = Plan(queue_s, run_s, Ending())
    return plan if fault is None else _struck(plan, fault)


def _struck(plan: Plan, fault: Fault) -> Plan:
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
        case _:
            return replace(plan, ending=_ending(fault))


def _ending(fault: Fault) -> Ending:
    ending = _ENDINGS[fault.what]
    if fault.arg is None:
        return ending
    return replace(ending, reason=fault.arg) if ending.status == "incomplete" else replace(ending, code=fault.arg)


_ENDINGS: Final = {
    "failed": Ending("failed", "server_error", with_usage=False),
    "failed_usage": Ending("failed", "server_error"),
    "failed_no_code": Ending("failed", None, with_usage=False),
    "failed_unknown_code": Ending("failed", "flux_capacitor_error", with_usage=False),
    "missed_window": Ending("failed", "completion_window_missed", with_usage=False),
    "image_safety": Ending("failed", "image_content_policy_violation", with_usage=False, hook=False),
    "incomplete": Ending("incomplete", reason="max_output_tokens"),
    "empty_output": Ending("completed", empty=True),
}
