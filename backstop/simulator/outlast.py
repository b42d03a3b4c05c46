"""The preset `outlast`: failures after acceptance, passing incidents, and servers that differ slightly from OpenAI.
`RATES` alone can be merged into another profile.
"""

from __future__ import annotations

from typing import Final

from backstop.simulator.config import Distribution, ModelProfile, PlannedEvent

RATES: Final = {
    # Refusals after acceptance, most of them without usage.
    "run_failed_at_once=rate_limit_exceeded/5": 0.015,
    "run_failed_at_once=server_is_overloaded": 0.01,
    "run_failed=slow_down": 0.005,
    "run_failed=server_error": 0.01,
    "run_failed_usage=server_error": 0.005,
    "run_failed=insufficient_quota": 0.003,
    "run_failed=context_length_exceeded": 0.003,
    "run_failed=moderation_blocked": 0.002,
    "run_failed=cyber_policy_violation": 0.002,
    "run_failed=too_large_for_the_limit": 0.002,
    "run_failed=flux_capacitor_error": 0.003,
    # Ends and objects in other shapes.
    "run_output_null": 0.01,
    "run_output_absent": 0.005,
    "run_other_id": 0.01,
    "run_other_id=no_metadata": 0.003,
    "run_no_metadata": 0.01,
    "run_odd_words": 0.01,
    "run_odd_end": 0.002,
    "run_unknown_status": 0.002,
    "run_odd_usage=floats": 0.002,
    "run_odd_usage=nulls": 0.002,
    "run_odd_usage=absent": 0.002,
    # What stands around objects.
    "run_around=envelope": 0.003,
    "run_around=list": 0.002,
    "run_around=bom": 0.002,
    "run_around=utf16": 0.002,
    "run_around=prefix": 0.002,
    "run_around=trailing": 0.002,
    "run_around=events": 0.002,
    # Acceptances in other shapes.
    "create_accept_202": 0.02,
    "create_terminal": 0.01,
    "create_terminal_failed=rate_limit_exceeded/5": 0.003,
    "create_terminal_failed=context_length_exceeded": 0.002,
    "create_terminal_incomplete": 0.003,
    "create_first_event_failed=server_is_overloaded": 0.003,
    "create_held": 0.003,
    "create_held=absent": 0.003,
    # Refusals in other words, also inside a 200.
    "create_answer=200/server_error": 0.005,
    "create_answer=200/rate_limit_exceeded/openai/5": 0.003,
    "create_answer=200//object": 0.002,
    "create_answer=503/slow_down/openai/5": 0.005,
    "create_answer=503//detail/5": 0.005,
    "create_answer=502//html/5header": 0.003,
    "create_answer=529//html": 0.003,
    "create_answer=429//text/5text": 0.005,
    "create_answer=500//problem": 0.003,
    "create_answer=503//plain": 0.003,
    "create_locked=10": 0.01,
    "create_queue_full=10": 0.01,
    "create_conflict=5": 0.005,
    "poll_404_passing=10": 0.02,
    "poll_answer=500//text": 0.003,
    "poll_answer=503//problem": 0.003,
    "poll_answer=200/server_error": 0.003,
    "poll_answer=404//detail": 0.003,
    "cancel_answer=409//detail": 0.03,
    "cancel_answer=400//message": 0.03,
}

# One after the other, each repeated every ten simulated minutes.
_EVERY_S: Final = 600.0
EVENTS: Final = (
    PlannedEvent("incident", at_s=60, for_s=40, every_s=_EVERY_S, answer="503/server_is_overloaded/openai/10"),
    PlannedEvent("incident", at_s=120, for_s=20, every_s=_EVERY_S, answer="invalid_api_key", calls="all"),
    PlannedEvent("incident", at_s=160, for_s=20, every_s=_EVERY_S, answer="refused", calls="all"),
    PlannedEvent("incident", at_s=200, for_s=30, every_s=_EVERY_S, answer="insufficient_quota"),
    PlannedEvent(
        "incident", at_s=250, for_s=20, every_s=_EVERY_S, answer="none", runs="fail", run_code="rate_limit_exceeded/10"
    ),
    PlannedEvent("incident", at_s=290, for_s=20, every_s=_EVERY_S, answer="403//html"),
    PlannedEvent("restart", at_s=330, for_s=5, every_s=_EVERY_S, share=0.5),
    PlannedEvent("incident", at_s=380, for_s=30, every_s=_EVERY_S, answer="529//html/10header"),
    PlannedEvent("incident", at_s=430, for_s=20, every_s=_EVERY_S, answer="billing_not_active"),
    PlannedEvent("incident", at_s=470, for_s=20, every_s=_EVERY_S, answer="model_not_found"),
    PlannedEvent("incident", at_s=510, for_s=30, every_s=_EVERY_S, answer="429/rate_limit_exceeded/openai/20"),
)

MODELS: Final = {
    "*": ModelProfile(
        windows={
            "2h": Distribution("uniform", low_s=10, high_s=120),
            "8h": Distribution("uniform", low_s=10, high_s=300),
        },
        continued_factor=0.1,
    )
}
