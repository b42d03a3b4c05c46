"""Each kind of violation, planted into a run that was good, is named; and a good run has none."""

from dataclasses import replace
from typing import Any

import pytest

from backstop.dev.invariants import Create
from backstop.dev.judge import Acknowledged, Evidence, HeardWebhook, Result, Spread, judge, spread

GOOD = Evidence(
    acknowledged=[
        Acknowledged("a", "http", 1_000, retries_max=1),
        Acknowledged("b", "kafka", 1_000, retries_max=1),
    ],
    results=[
        Result("a", "completed", "webhook", 5_040, frozenset({1}), "resp_a1"),
        Result("b", "completed", "poll", 9_500, frozenset({1, 2}), "resp_b2"),
    ],
    creates=[
        Create("resp_a1", "a", 1, 1_020),
        Create("resp_b1", "b", 1, 1_040, replied=False),
        Create("resp_b2", "b", 2, 3_000),
    ],
    rows={"a": "completed", "b": "completed"},
    ended_at_ms={"resp_a1": 5_000, "resp_b2": 9_000},
    webhooks=[HeardWebhook("resp_a1", 5_010)],
    restarts={"worker": 0},
)


def violations(**changes: Any) -> list[str]:
    return [str(violation) for violation in judge(replace(GOOD, **changes)).violations]


def test_a_good_run_has_no_violation_and_is_counted() -> None:
    verdict = judge(GOOD)
    assert verdict.violations == ()
    assert (verdict.jobs, verdict.results, verdict.lost, verdict.duplicates) == (2, 2, 0, 0)
    assert (verdict.creates, verdict.creates_unanswered, verdict.repeats) == (3, 1, 1)
    assert verdict.by_ingress == {"http": 1, "kafka": 1}
    assert verdict.found_by == {"webhook": 1, "poll": 1}
    assert verdict.detection == {"poll": Spread(1, 500, 500, 500), "webhook": Spread(1, 40, 40, 40)}
    assert verdict.webhook_to_result == Spread(1, 30, 30, 30)
    assert verdict.request_to_create == Spread(2, 20, 40, 40)
    assert verdict.restarts == {}


def test_a_lost_job_is_named() -> None:
    assert violations(results=GOOD.results[:1]) == ["I1: 1 acknowledged jobs without a result: b"]


def test_a_second_result_is_named() -> None:
    again = replace(GOOD.results[0], seen_at_ms=6_000)
    assert violations(results=[*GOOD.results, again]) == ["I2: 1 jobs with more than one result: a"]
    assert judge(replace(GOOD, results=[*GOOD.results, again, again])).duplicates == 2


def test_a_result_of_a_job_that_was_not_submitted_is_named() -> None:
    unsubmitted = Result("x", "failed", None, 6_000, frozenset())
    found = violations(results=[*GOOD.results, unsubmitted], rows={**GOOD.rows, "x": "failed"})
    assert found == ["I2: 1 results of jobs that were not submitted: x"]


@pytest.mark.parametrize(
    ("create", "why"),
    [
        (Create("resp_a2", "a", 1, 2_000), "a attempt 1 (a second create of the attempt)"),
        (Create("resp_a2", "a", 2, 2_000), "a attempt 2 (the result does not list it)"),
        (Create("resp_b3", "b", 3, 4_000), "b attempt 3 (only 1 retries were granted)"),
        (Create("resp_x1", "x", 1, 4_000), "resp_x1 (its job was not submitted)"),
        (Create("resp_x2", None, None, 4_000), "resp_x2 (its job was not submitted)"),
    ],
)
def test_a_create_that_nothing_explains_is_named(create: Create, why: str) -> None:
    assert violations(creates=[*GOOD.creates, create]) == [f"I3: 1 accepted creates without a cause: {why}"]


def test_a_row_that_says_something_else_is_named() -> None:
    found = violations(rows={"a": "running", "b": "completed"})
    assert found == ["I6: 1 rows that differ from their result: a (row running, result completed)"]


def test_a_row_that_is_missing_is_named() -> None:
    assert violations(rows={"a": "completed"}) == [
        "I6: 1 rows that differ from their result: b (row no row, result completed)"
    ]


def test_only_a_few_examples_are_shown_and_the_others_counted() -> None:
    many = [Acknowledged(f"j{number}", "http", 1_000, 1) for number in range(7)]
    (found,) = violations(acknowledged=[*GOOD.acknowledged, *many])
    assert found == "I1: 7 acknowledged jobs without a result: j0, j1, j2, j3, j4 and 2 more"


def test_restarts_are_told_and_are_no_violation() -> None:
    verdict = judge(replace(GOOD, restarts={"worker": 2, "serve": 0}))
    assert (verdict.restarts, verdict.violations) == ({"worker": 2}, ())


def test_percentiles_are_of_measured_values() -> None:
    assert spread(range(1, 101)) == Spread(100, 50, 99, 100)
    assert spread([7]) == Spread(1, 7, 7, 7)
    assert spread([]) == Spread(0, None, None, None)
