"""The presets. A profile in JSON names one of them as its `base` and overrides fields."""

from __future__ import annotations

from typing import Final

from backstop.simulator import outlast
from backstop.simulator.config import ModelProfile, PlannedEvent, Profile

_CALM: Final = Profile()

# For demonstrations: most jobs go well, and each kind of loss happens within minutes.
_DEMO: Final = Profile(
    rates={
        "webhook_lost": 0.20,
        "webhook_twice": 0.10,
        "webhook_late": 0.05,
        "webhook_early": 0.02,
        "webhook_reordered": 0.05,
        "run_stuck_queued": 0.02,
        "run_stuck_in_progress": 0.03,
        "run_failed": 0.02,
        "run_slow": 0.02,
        "create_accept_reset": 0.01,
        "create_accept_500": 0.005,
        "create_refuse_500": 0.01,
        "create_refuse_502": 0.005,
        "create_429_requests": 0.02,
        "create_429_tokens": 0.02,
        "create_503_overloaded": 0.01,
        "poll_500": 0.01,
        "poll_429": 0.01,
        "poll_html_429": 0.002,
        "webhook_forged_secret": 0.02,
        "webhook_unknown_type": 0.01,
        "webhook_foreign_id": 0.01,
    },
)

_ROUGH: Final = Profile(
    rates={
        # Failures after acceptance, at half the rates of `outlast`. Faults that are named below have their own rate.
        **{name: rate / 2 for name, rate in outlast.RATES.items()},
        "webhook_lost": 0.20,
        "webhook_twice": 0.10,
        "webhook_late": 0.10,
        "webhook_early": 0.03,
        "webhook_reordered": 0.10,
        **{f"webhook_forged_{how}": 0.02 for how in ("secret", "empty_key", "body", "old", "future", "unsigned")},
        **{f"webhook_{what}": 0.01 for what in ("unknown_type", "foreign_id", "not_json", "not_utf8", "list")},
        "run_stuck_queued": 0.03,
        "run_stuck_in_progress": 0.04,
        "run_failed": 0.02,
        "run_failed_usage": 0.01,
        "run_failed_no_code": 0.005,
        "run_failed_unknown_code": 0.005,
        "run_incomplete": 0.01,
        "run_image_safety": 0.005,
        "run_empty_output": 0.005,
        "run_slow": 0.03,
        "run_expires": 0.005,
        **{f"create_accept_{kind}": 0.004 for kind in ("close", "reset", "cut", "html_200", "empty_object")},
        **{f"create_accept_{kind}": 0.004 for kind in ("broken_json", "408", "409", "500", "502", "503", "504")},
        **{f"create_refuse_{kind}": 0.004 for kind in ("close", "reset", "cut", "html_200", "empty_object")},
        **{f"create_refuse_{kind}": 0.004 for kind in ("broken_json", "408", "409", "500", "502", "503", "504")},
        **{f"create_{side}_{kind}": 0.001 for side in ("accept", "refuse") for kind in ("stall", "slow", "not_http")},
        "create_429_requests": 0.02,
        "create_429_tokens": 0.02,
        "create_429_slow_down": 0.005,
        "create_503_overloaded": 0.01,
        "create_html_403": 0.003,
        "create_html_429": 0.003,
        "create_terminal": 0.01,
        "poll_404_at_first": 0.03,
        "poll_404": 0.002,
        "poll_429": 0.01,
        "poll_html_403": 0.002,
        "poll_html_429": 0.002,
        "poll_regress": 0.01,
        "poll_unknown_status": 0.01,
        "poll_another_id": 0.005,
        "poll_truncated": 0.005,
        "poll_500": 0.01,
        "poll_503": 0.01,
        "poll_reset": 0.005,
        "poll_close": 0.005,
        "poll_cut": 0.005,
        "poll_html_200": 0.005,
        "poll_empty_object": 0.005,
        "poll_stall": 0.001,
        "create_accept_empty_stream": 0.004,
        "stream_drop": 0.10,
        "stream_close": 0.05,
        "stream_error": 0.03,
        "stream_delay": 0.03,
        "stream_endless": 0.02,
        "stream_twice": 0.02,
        "stream_swapped": 0.02,
        "stream_400": 0.01,
        "stream_404": 0.05,
        "stream_429": 0.01,
        "stream_500": 0.05,
        "stream_html_200": 0.01,
        "cancel_accept_reset": 0.03,
        "cancel_accept_500": 0.03,
        "cancel_refuse_500": 0.03,
        "cancel_409": 0.05,
        "cancel_400": 0.03,
        "cancel_404": 0.03,
        "cancel_runs_on": 0.10,
        "cancel_then_completed": 0.10,
    },
    ids="any",
    cancel_of_ended="409",
    error_404="bare",
    retry_after="any",
    stall_real_s=20.0,
)

_INCIDENT_EVERY_S: Final = 900.0

# Twice as bad as rough where it hurts, with a platform that breaks down every few simulated minutes.
_TORTURE: Final = Profile(
    rates={
        **{name: min(rate * 2.0, 1.0) for name, rate in _ROUGH.rates.items()},
        "webhook_lost": 0.50,
        "platform_500": 0.02,
        # Each 429 halves the poll rate: a few percent, all the time, would hide every other effect. Waves bring the
        # rest.
        "poll_429": 0.005,
        "poll_html_403": 0.002,
        "poll_html_429": 0.002,
    },
    models={"*": ModelProfile(open_max=50_000)},
    ids="any",
    cancel_of_ended="404",
    error_404="bare",
    retry_after="any",
    stall_real_s=10.0,
    events=(
        PlannedEvent("outage", at_s=120, for_s=60, mode="503", runs="fail"),
        PlannedEvent("wave", at_s=300, for_s=120, factor=8.0),
        PlannedEvent("outage", at_s=600, for_s=60, mode="reset", share=0.7, webhooks="held"),
        PlannedEvent("restart", at_s=900),
        PlannedEvent("outage", at_s=1200, for_s=60, mode="html", webhooks="lost"),
        # Passing conditions: of the account, of a limit reported after acceptance, of a gateway without a server.
        PlannedEvent("incident", at_s=200, for_s=20, every_s=_INCIDENT_EVERY_S, answer="insufficient_quota"),
        PlannedEvent(
            "incident",
            at_s=500,
            for_s=20,
            every_s=_INCIDENT_EVERY_S,
            answer="none",
            runs="fail",
            run_code="rate_limit_exceeded/5",
        ),
        PlannedEvent("incident", at_s=800, for_s=20, every_s=_INCIDENT_EVERY_S, answer="529//html", calls="all"),
    ),
)

_OUTLAST: Final = Profile(
    rates={**_DEMO.rates, **outlast.RATES},
    models=outlast.MODELS,
    ids="any",
    cancel_of_ended="409",
    retry_after="any",
    events=outlast.EVENTS,
)

PRESETS: Final = {"calm": _CALM, "demo": _DEMO, "rough": _ROUGH, "torture": _TORTURE, "outlast": _OUTLAST}
