"""The control group: a share of the jobs, chosen by id, is polled as if no webhook came."""

from schemas.codec import encode
from streams.fold.batch import RESPONSE_FOLD
from streams.fold.response import AbsentResponse, RunningResponse, step
from streams.fold.response_timer import stamped_timer
from streams.policy.polls import PollPolicy, Webhooks
from tests.support.builders import T0, accepted, claimed

SHARE = 0.1


def test_the_share_of_jobs_is_chosen_by_id_alone() -> None:
    webhooks = Webhooks(PollPolicy(), control_share=SHARE)
    chosen = {f"job-{number}" for number in range(5_000) if webhooks.controls(f"job-{number}")}
    assert 0.08 < len(chosen) / 5_000 < 0.12
    assert all(Webhooks(PollPolicy(), control_share=SHARE).controls(job_id) for job_id in chosen)
    assert not any(Webhooks(PollPolicy()).controls(f"job-{number}") for number in range(1_000)), "off by default"


def asked(webhooks: Webhooks, age_ms: int, *, control: bool) -> int:
    found = webhooks.next_poll(
        response_id="r", latency_class=(), accepted_at_ms=T0, now_ms=T0 + age_ms, polls=1, control=control
    )
    return found.at_ms - T0 - age_ms


def test_a_control_job_is_polled_as_if_no_webhook_came() -> None:
    with_, without = Webhooks(PollPolicy()), Webhooks(PollPolicy(), expected=False)
    for age_ms in (0, 5_000, 60_000, 600_000):
        assert asked(with_, age_ms, control=True) == asked(without, age_ms, control=False)
        assert asked(with_, age_ms, control=True) < asked(with_, age_ms, control=False)


def test_the_fold_hands_the_stamp_to_the_claim_the_commands_and_the_timers() -> None:
    state = step(AbsentResponse(), claimed(T0, control=True, poll_at_ms=T0 + 1_000)).state
    assert isinstance(state, RunningResponse)
    assert state.claim.control
    timer = stamped_timer(Webhooks(PollPolicy()), "resp_1", state, T0 + 1_000, T0 + 1_000)
    assert step(state, timer).outputs[0].control is True  # type: ignore[attr-defined]


def test_records_and_rows_of_all_other_jobs_are_as_before() -> None:
    state = step(AbsentResponse(), claimed(T0)).state
    assert b"control" not in RESPONSE_FOLD.encode_state(state)
    assert b"control" not in encode(accepted(T0))
