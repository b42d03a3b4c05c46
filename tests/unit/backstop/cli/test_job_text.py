"""Jobs as people read them."""

from typing import Any

import pytest

from backstop.cli.job_text import change_line, clock, fact_row, job_row, job_text, output_text, reason_rows, span

WAITING = {
    "for": "webhook",
    "since_ms": 1_767_225_600_000,
    "until_ms": 1_767_225_605_000,
    "because": {"code": "running", "message": "it runs"},
}
JOB: dict[str, Any] = {
    "job_id": "j1",
    "status": "completed",
    "model": "gpt-5.2",
    "submitted_at_ms": 1_767_225_600_000,
    "updated_at_ms": 1_767_225_604_250,
    "finished_at_ms": 1_767_225_604_250,
    "attempts": 2,
    "found_by": "poll",
    "result": {
        "outcome": "completed",
        "timings": {"queued_ms": 120, "running_ms": 3_000, "detection_ms": None},
        "attempts": [
            {"attempt": 1, "outcome": "unknown"},
            {"attempt": 2, "outcome": "completed", "response_id": "resp_2", "adopted": True},
        ],
        "usage": {"total_tokens": 5},
        "response": {"output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello."}]}]},
    },
}


@pytest.mark.parametrize(
    ("won", "words"),
    [
        ({"won": "hedge", "ahead_ms": 41_500}, "the hedge won, ahead by 41.5s"),
        ({"won": "first"}, "attempt 1 won"),
        ({}, "neither won"),
    ],
)
def test_a_hedged_job_says_which_attempt_won(won: dict[str, Any], words: str) -> None:
    hedge = {"attempt": 2, "beside": 1, "begun_after_ms": 310_000, **won}
    lines = job_text({**JOB, "result": {**JOB["result"], "hedge": hedge}}).splitlines()
    assert lines[7] == f"hedge:       attempt 2 beside 1, after 5m; {words}"


def test_a_finished_job_is_shown_with_its_attempts_timings_and_output() -> None:
    assert job_text(JOB).splitlines() == [
        "job:         j1",
        "status:      completed",
        "model:       gpt-5.2",
        "submitted:   2026-01-01 00:00:00.000Z",
        "finished:    2026-01-01 00:00:04.250Z",
        "found by:    poll",
        "attempts:    1 unknown; 2 completed resp_2 (adopted)",
        "timings:     queued 120ms, running 3.0s",
        'usage:       {"total_tokens":5}',
        "",
        "Hello.",
    ]


def test_a_job_that_failed_says_why() -> None:
    failed = {
        "job_id": "j1",
        "status": "failed",
        "result": {"reason": {"code": "server_error", "message": "It broke."}},
    }
    assert "reason:      server_error: It broke." in job_text(failed).splitlines()


def test_a_change_is_one_line_with_its_time_and_what_comes_next() -> None:
    running = {
        "status": "running",
        "updated_at_ms": 1_767_225_601_000,
        "attempts": 1,
        "next_action_at_ms": 1_767_225_605_000,
        "waiting": WAITING,
    }
    assert change_line(running) == (
        "00:00:01.000Z  running  attempt 1  waits for webhook, since 00:00:00.000Z (running: it runs)  "
        "next action at 00:00:05.000Z"
    )


def test_a_line_of_a_list_reckons_age_and_next_action_from_now() -> None:
    row = job_row({**JOB, "waiting": WAITING}, now_ms=1_767_225_603_000)
    assert (row["age"], row["next_action"], row["because"]) == ("3.0s", "webhook in 2.0s", "running")
    row = job_row({**JOB, "waiting": WAITING}, now_ms=1_767_225_610_000)
    assert row["next_action"] == "webhook due 5.0s ago"
    row = job_row({**JOB, "reason": {"code": "deadline", "message": "late"}}, now_ms=1_767_225_610_000)
    assert (row["next_action"], row["because"]) == (None, "deadline")


def test_an_open_job_says_what_it_waits_for_and_when_backstop_acts_next() -> None:
    lines = job_text({"job_id": "j1", "status": "running", "waiting": WAITING, "next_action_at_ms": 1_767_225_605_000})
    assert lines.splitlines()[2:] == [
        "waits for:   webhook, since 00:00:00.000Z (running: it runs)",
        "next action: 2026-01-01 00:00:05.000Z",
    ]


def test_groups_of_reasons_name_their_number_and_an_example() -> None:
    waiting = {"for": "retry", "code": "c", "message": "m", "count": 23, "since_ms": 1_000, "job_ids": ["j1", "j2"]}
    ended = {"status": "completed", "count": 2, "ended_at_ms": 3_000, "job_ids": ["j3"]}
    assert reason_rows({"waiting": [waiting], "ended": [ended]}, now_ms=4_000) == [
        {"count": 23, "jobs": "wait for retry", "because": "c", "since": "3.0s ago", "example": "j1", "message": "m"},
        {"count": 2, "jobs": "completed", "because": None, "since": "1.0s ago", "example": "j3", "message": None},
    ]


def test_a_fact_says_where_its_record_stands() -> None:
    fact = {"at_ms": 1_767_225_600_000, "kind": "job_submitted", "topic": "jobs", "partition": 1, "offset": 7,
            "summary": {"ingress": "http", "polls": 2}}  # fmt: skip
    assert fact_row(fact) == {
        "at": "00:00:00.000Z",
        "kind": "job_submitted",
        "where": "jobs:1:7",
        "summary": "ingress http, polls 2",
    }


def test_an_output_that_is_not_as_expected_is_left_out() -> None:
    odd: tuple[Any, ...] = (
        None,
        [],
        {"output": None},
        {"output": ["x", {"content": None}, {"content": [{"type": "refusal"}]}]},
    )
    for response in odd:
        assert output_text({"result": {"response": response}}) == ""
    assert output_text({}) == ""


def test_spans_are_in_the_unit_that_people_would_take() -> None:
    assert [span(ms) for ms in (0, 999, 1_500, 119_999, 600_000, 7_200_000, -2_000)] == [
        "0ms", "999ms", "1.5s", "120.0s", "10m", "2h", "-2.0s",
    ]  # fmt: skip


def test_a_time_that_no_calendar_has_is_shown_as_its_number() -> None:
    assert clock(2**63 - 1) == "9223372036854775807 ms"
    assert clock(-(2**63)) == "-9223372036854775808 ms"
    assert clock(1_000) == "00:00:01.000Z"
