"""Every cause at each place where an attempt can meet it (create, end, poll), with any told wait.

The deadline bounds the job's patience. Limits bound the attempts that were paid.
"""

from dataclasses import replace
from itertools import takewhile
from typing import Any, Final, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import Cause
from schemas.jobs import JobPolicy
from streams.openai.answers import ProviderAnswer, read_poll
from streams.openai.causes import CAUSE_OF_CODE
from streams.policy.retry import ODD_TRIES_MAX, TOLD_JITTER_MS_MAX
from streams.provider import AskAgain, Missing, Refused
from tests.properties.lifetimes import Day, Life, Place
from tests.support.builders import DEADLINE, POLICY, job_timer, settled

CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
AFTER_ACCEPTANCE: Final = tuple(cause for cause in CAUSES if cause not in ("held", "unsent"))
"""The other causes arise before a request is sent."""

ROOMY: Final = POLICY.model_copy(update={"rejections_max": 1_000, "unpaid_ends_max": 1_000, "doubts_max": 1_000})
TOLD_MS = st.one_of(st.just(0), st.integers(1, 120_000), st.integers(1, 40 * 3_600_000))
PLACES = st.sampled_from(get_args(Place))


def day_of(place: Place, cause: Cause, told_ms: int) -> Day:
    return Day(place, cause if place == "create" or cause in AFTER_ACCEPTANCE else "faulty", told_ms)


DAYS = st.lists(st.builds(day_of, PLACES, st.sampled_from(CAUSES), TOLD_MS), max_size=14)
POLICIES = st.builds(
    lambda retries, refused, unpaid, doubts, account, stuck: POLICY.model_copy(
        update={
            "retries_max": retries, "rejections_max": refused, "unpaid_ends_max": unpaid, "doubts_max": doubts,
            "on_account": account, "stuck_after_ms": stuck,
        }
    ),
    st.integers(0, 3), st.integers(0, 12), st.integers(0, 12), st.integers(0, 3),
    st.sampled_from(("wait", "wait", "fail")), st.sampled_from((None, 60_000)),
)  # fmt: skip


def lived(policy: JobPolicy, days: list[Day]) -> Life:
    """Live the days in turn, then complete at a provider that has recovered, then pass the deadline."""
    life = Life(policy)
    life.begin()
    for day in days:
        if life.over:
            break
        life.live(day)
    if not life.over and life.command is not None:
        life.complete()
    life.pass_time(DEADLINE)
    return life


@settings(max_examples=300, deadline=None)
@given(policy=POLICIES, days=DAYS)
def test_whatever_attempts_meet_the_job_has_one_result_and_pays_for_no_more_than_it_may(
    policy: JobPolicy, days: list[Day]
) -> None:
    life = lived(policy, days)
    (result,) = life.results
    assert life.spent["paid"] <= 1 + policy.retries_max
    if result.outcome == "failed" and life.state.finished_at_ms < DEADLINE:
        assert bound_reached(policy, life), f"ended as {result.reason} after {life.spent}, {life.causes}"
    if result.outcome == "expired":
        assert life.state.finished_at_ms >= DEADLINE
    assert all(told_ms <= wait_ms for told_ms, wait_ms in life.waits_ms), "asked again before it was told to"
    # Late facts change nothing.
    life.take(job_timer(DEADLINE), settled(DEADLINE + 1, response_id="resp_1"))
    assert life.results == [result]


def bound_reached(policy: JobPolicy, life: Life) -> bool:
    """Whether, by the counts kept here, a limit was reached that ends a job before its deadline."""
    last = life.causes[-1]
    in_a_row = len(list(takewhile(lambda cause: cause == last, reversed(life.causes))))
    return (
        last == "never"
        or (last == "account" and policy.on_account == "fail")
        or (last == "odd" and in_a_row >= ODD_TRIES_MAX)
        or life.spent["paid"] > policy.retries_max
        or life.spent["unpaid"] > policy.unpaid_ends_max
        or life.spent["doubtful"] > policy.doubts_max
        or life.spent["refused"] > policy.rejections_max
    )


@settings(max_examples=25, deadline=None)
@given(told_ms=TOLD_MS, times=st.integers(1, 8))
@pytest.mark.parametrize("place", ["create", "end"])
@pytest.mark.parametrize("cause", [cause for cause in CAUSES if cause != "never"])
def test_what_cost_nothing_and_passes_ends_no_job_that_has_time_left(
    place: Place, cause: Cause, told_ms: int, times: int
) -> None:
    """No retry is allowed, nothing is paid. If its waits leave no time, the job expires at its deadline."""
    life = lived(ROOMY.model_copy(update={"retries_max": 0}), [day_of(place, cause, told_ms)] * times)
    (result,) = life.results
    assert result.outcome in ("completed", "expired")
    if result.outcome == "expired":
        waited_ms = sum(wait_ms for _, wait_ms in life.waits_ms)
        longest_ms = max(told_ms + TOLD_JITTER_MS_MAX, 5 * POLICY.backoff_max_ms)
        assert DEADLINE <= life.state.finished_at_ms <= DEADLINE + 1
        assert waited_ms + longest_ms + times * 60_000 > DEADLINE - 1_000_000, "it had time for another attempt"


@settings(max_examples=25, deadline=None)
@given(told_ms=st.integers(0, 200_000))
@pytest.mark.parametrize("cause", AFTER_ACCEPTANCE)
def test_a_poll_that_hears_something_else_ends_nothing(cause: Cause, told_ms: int) -> None:
    life = lived(ROOMY, [Day("poll", cause, told_ms)])
    (result,) = life.results
    assert result.outcome == ("completed" if life.state.finished_at_ms < DEADLINE else "expired")
    assert life.spent["paid"] == 0


ANSWERS = st.builds(
    lambda status, code, told, shape: ProviderAnswer(status, {"retry-after": str(told)} if told else {}, shape(code)),
    st.sampled_from((400, 401, 402, 403, 404, 408, 409, 423, 425, 429, 500, 501, 502, 503, 504, 507, 529)),
    st.sampled_from(sorted(CAUSE_OF_CODE)),
    st.integers(0, 200_000),
    st.sampled_from((
        lambda code: {"error": {"code": code, "message": "no", "type": code}},
        lambda code: {"error": code},
        lambda code: {"detail": code},
        lambda code: {"type": "about:blank", "title": code},
        lambda code: [code],
        lambda _: None,
    )),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(answer=ANSWERS)
def test_no_refusal_of_a_poll_is_read_as_an_end(answer: Any) -> None:
    seen = read_poll(answer, now_ms=0)
    assert isinstance(seen, AskAgain | Missing | Refused)
    within = read_poll(replace(answer, status=200), now_ms=0)
    assert isinstance(within, AskAgain | Missing)
    assert isinstance(within, AskAgain) or within.code is not None, "it is a refused poll, and no 404"
