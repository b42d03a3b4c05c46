"""A job's own cap: which attempts it permits, what it counts, and what the end says."""

from typing import Any

import pytest

from schemas.base import Terms, Usage
from schemas.jobs import Turn
from schemas.results import JobResult
from schemas.spend_caps import PICO, SpendCap, TokenPrices
from streams.fold import job
from streams.fold.rows import decode_job_state, encode_job_state
from streams.fold.step import Ignored, Step
from tests.support.builders import (
    POLICY,
    T0,
    accepted,
    admitted,
    hedge_permitted,
    job_timer,
    rejected,
    settled,
    submitted,
    unknown,
)
from tests.support.given_when_then import fold, given

TWO_DOLLARS_A_MILLION = TokenPrices(input=2_000_000, cached_input=200_000, cache_write=2_500_000, output=8_000_000)
"""$2 for a million tokens of the input, $8 for one of the output."""
PATIENT = POLICY.model_copy(update={"retries_max": 5})


def capped(tokens_max: int | None = None, usd: float | None = None, *, inputs: int = 100, outputs: int = 400) -> Any:
    cap = SpendCap(
        tokens_max=tokens_max, cost_pico_max=None if usd is None else round(usd * PICO),
        prices=None if usd is None else TWO_DOLLARS_A_MILLION, input_tokens=inputs, output_tokens=outputs,
    )  # fmt: skip
    return submitted(cap=cap, policy=PATIENT)


def failed(at_ms: int, attempt: int, tokens: int | None, **more: Any) -> Any:
    usage = None if tokens is None else Usage(input_tokens=100, output_tokens=tokens - 100, total_tokens=tokens)
    more = {"usage": usage, "cause": "faulty", "code": "server_error"} | more
    return settled(at_ms, "failed", attempt, f"resp_{attempt}", **more)


def runs(attempt: int, at_ms: int) -> Any:
    return accepted(at_ms, attempt, f"resp_{attempt}")


def the_result(step: Step[Any]) -> JobResult:
    (result,) = [output for output in step.outputs if isinstance(output, JobResult)]
    return result


def test_a_retry_begins_while_what_is_spent_and_its_estimate_fit() -> None:
    history = (capped(1_000), runs(1, T0 + 10))
    step = given(*history).when(failed(T0 + 20, 1, 500)).step
    assert isinstance(step.state, job.BackingOff), "500 are spent, and 500 more are expected"
    step = given(*history).when(failed(T0 + 20, 1, 501)).step
    reason = the_result(step).reason
    assert reason is not None
    assert (the_result(step).outcome, reason.code) == ("failed", "cost_cap")
    assert reason.message.startswith(
        "max_tokens_spent is 1,000: 501 tokens are spent, and a further attempt needs about 501"
    )
    assert "its last attempt: server_error" in reason.message


def test_an_attempt_is_expected_to_use_no_less_than_the_one_before() -> None:
    step = given(capped(1_900), runs(1, T0 + 10)).when(failed(T0 + 20, 1, 1_000)).step
    assert "needs about 1,000" in str(the_result(step).reason)


def test_money_is_counted_by_the_stamped_prices() -> None:
    """100 in and 400 out: $0.0034. A retry is expected to cost as much."""
    history = (capped(usd=0.0068), runs(1, T0 + 10))
    assert isinstance(given(*history).when(failed(T0 + 20, 1, 500)).step.state, job.BackingOff)
    history = (capped(usd=0.006799), runs(1, T0 + 10))
    reason = the_result(given(*history).when(failed(T0 + 20, 1, 500)).step).reason
    assert reason is not None
    assert reason.message.startswith(
        "max_cost_usd is $0.006799: $0.0034 are spent, and a further attempt needs about $0.0034"
    )


def test_calls_of_tools_count() -> None:
    prices = TWO_DOLLARS_A_MILLION.model_copy(update={"web_search_call": PICO // 100})
    cap = SpendCap(cost_pico_max=PICO // 10, prices=prices, input_tokens=100, output_tokens=400)
    end = failed(T0 + 20, 1, 500, terms=Terms(web_search_calls=10))
    step = given(submitted(cap=cap, policy=PATIENT), runs(1, T0 + 10)).when(end).step
    assert "$0.1034 are spent" in str(the_result(step).reason)


@pytest.mark.parametrize(("ends", "outcome"), [(0, None), (1, None), (2, "failed")])
def test_an_attempt_of_unknown_outcome_counts_by_estimate(ends: int, outcome: str | None) -> None:
    """500 each, of 1,500: the third would be the fourth with its own estimate."""
    events: list[Any] = [capped(1_499)]
    at_ms = T0
    for number in range(1, ends + 1):
        at_ms += 1_000
        events.append(unknown(at_ms, attempt=number))
        state = fold(events)
        at_ms = job.due_ms(state) or 0
        events.append(job_timer(at_ms, at_ms))  # Abandoned.
        state = fold(events)
        if isinstance(state, job.BackingOff):
            at_ms = state.retry_at_ms
            events.append(job_timer(at_ms, at_ms))
    state = fold(events)
    assert getattr(state, "outcome", None) == outcome


def test_refusals_and_failures_without_usage_cost_nothing() -> None:
    """A cap of less than one estimate permits retries while nothing is spent."""
    events = [capped(300), rejected(T0 + 10, cause="limited")]
    state = fold(events)
    assert isinstance(state, job.BackingOff)
    begun = given(*events).when(job_timer(state.retry_at_ms, state.retry_at_ms)).step
    assert isinstance(begun.state, job.Active)
    step = given(capped(300), runs(1, T0 + 10)).when(failed(T0 + 20, 1, None)).step
    assert isinstance(step.state, job.BackingOff)


@pytest.mark.parametrize("turn", [None, Turn(waits=True)])
def test_an_input_that_is_too_much_ends_the_job_before_it_costs_anything(turn: Turn | None) -> None:
    cap = SpendCap(tokens_max=99, input_tokens=100, output_tokens=400)
    step = given_absent(submitted(cap=cap, turn=turn))
    result = the_result(step)
    assert (result.outcome, result.attempts, len(step.outputs)) == ("rejected", (), 1)
    assert result.reason is not None
    assert result.reason.message == ("max_tokens_spent is 99: 0 tokens are spent, and its input alone needs about 100")


def test_an_output_of_which_nothing_is_known_keeps_no_job_from_its_first_attempt() -> None:
    step = given_absent(capped(101))
    assert isinstance(step.state, job.Active)
    waiting = submitted(cap=SpendCap(tokens_max=101, input_tokens=100, output_tokens=400), turn=Turn(waits=True))
    assert isinstance(given(waiting).when(admitted(T0 + 5)).step.state, job.Active)


def test_usage_that_comes_while_a_job_waits_for_its_retry_counts() -> None:
    events = [capped(1_200), runs(1, T0 + 10), settled(T0 + 20, "missing")]
    state = fold(events)
    assert isinstance(state, job.BackingOff), "500 by estimate, and 500 more"
    late = failed(T0 + 30, 1, 1_000)
    events.append(late)
    end = given(*events).when(job_timer(state.retry_at_ms, state.retry_at_ms)).step
    assert "1,000 tokens are spent" in str(the_result(end).reason)


def test_a_second_response_of_an_attempt_counts() -> None:
    events = [capped(1_000), runs(1, T0 + 10)]
    second = settled(
        T0 + 15, "completed", 1, "resp_9", usage=Usage(input_tokens=300, output_tokens=400, total_tokens=700)
    )
    events.append(second)
    step = given(*events).when(failed(T0 + 20, 1, 200)).step
    assert "900 tokens are spent" in str(the_result(step).reason)


def test_a_hedge_begins_only_if_both_fit() -> None:
    policy = PATIENT.model_copy(update={"hedge": True})
    for tokens_max, ignored in ((1_000, None), (999, Ignored.STALE)):
        cap = SpendCap(tokens_max=tokens_max, input_tokens=100, output_tokens=400)
        step = given(submitted(cap=cap, policy=policy), runs(1, T0 + 10)).when(hedge_permitted(T0 + 50)).step
        assert step.ignored == ignored


def test_a_completed_attempt_wins_whatever_it_used() -> None:
    used = Usage(input_tokens=100, output_tokens=9_900, total_tokens=10_000)
    step = given(capped(1_000), runs(1, T0 + 10)).when(settled(T0 + 20, usage=used)).step
    assert the_result(step).outcome == "completed"


@pytest.mark.parametrize("turn", [None, Turn(waits=True)])
def test_rows_without_a_cap_have_the_bytes_of_older_releases(turn: Turn | None) -> None:
    state = fold([submitted(turn=turn)])
    row = encode_job_state(state)
    assert b"cap" not in row.replace(b"capacity", b"")
    assert b"beside_" not in row
    assert decode_job_state(row) == state
    with_cap = fold([submitted(turn=turn, cap=SpendCap(tokens_max=1_000, input_tokens=1, output_tokens=2))])
    assert decode_job_state(encode_job_state(with_cap)) == with_cap


def given_absent(event: Any) -> Step[Any]:
    return job.step(job.Absent(), event)
