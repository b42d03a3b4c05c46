"""What an open job waits for, fact by fact, and what its list shows of it."""

from collections.abc import Sequence
from typing import Any

import pytest

from backstop.readmodel.project import evolve
from backstop.readmodel.rows import JobRow, Place, Position, TimelineEntry, Wait
from backstop.readmodel.timeline import summarise
from backstop.readmodel.view import job_view
from backstop.readmodel.waits import MESSAGE_CHARS_MAX, Sight, idle_wait, sight_of
from backstop.readmodel.why import JobSituation, why
from schemas.base import Message
from schemas.jobs import Turn
from schemas.responses import PollFailed, ResponseFact, ResponseTimerFired
from streams.fold.job import due_ms
from streams.fold.rows import decode_job_state
from tests.unit.backstop.readmodel.logs import (
    DEADLINE_MS,
    PROMPT,
    accepted,
    adopted,
    cancelled,
    claimed,
    observed,
    rejected,
    settled,
    submitted,
    timer,
    unknown,
    webhook,
)


def row_of(*facts: Message) -> JobRow:
    row: JobRow | None = None
    for offset, fact in enumerate(facts):
        row = evolve(row, fact, Position("jobs", 0, offset)).row  # type: ignore[arg-type]  # facts of a job
    assert row is not None
    return row


def entries(*facts: ResponseFact) -> list[TimelineEntry]:
    return [
        TimelineEntry("j", fact.at_ms, fact.type, summarise(fact), Position("responses", 3, offset))
        for offset, fact in enumerate(facts)
    ]


def waits(row: JobRow, now_ms: int = 3_000, seen: Sequence[TimelineEntry] = (), held: Wait | None = None) -> Any:
    sight = sight_of(seen, row.wait.response_id if row.wait else None)
    return job_view(row, now_ms, sight, held).get("waiting")


def due_of(row: JobRow) -> int:
    due = due_ms(decode_job_state(row.fold_state))
    assert due is not None
    return due


RUNNING = (submitted(), accepted())
POLLED = observed(at_ms=7_000).model_copy(
    update={"outcome": "running", "raw_status": "in_progress", "next_poll_at_ms": 12_000}
)
FAILED = PollFailed(
    id="resp_1/failed", at_ms=8_000, response_id="resp_1", command_id="c", reason="timeout", next_poll_at_ms=13_000
)
FIRED = ResponseTimerFired(id="t", at_ms=7_000, response_id="resp_1", due_ms=7_000, next_poll_at_ms=17_000)


def test_a_submitted_job_waits_for_its_acceptance_until_the_report_is_due() -> None:
    row = row_of(submitted())
    assert waits(row) == {
        "for": "acceptance", "since_ms": 1_000, "until_ms": due_of(row),
        "because": {"code": "create_sent", "message": "the create of attempt 1 is on its way to the provider"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("begins_ms", "code", "message"),
    [
        (None, "turn", "it waits for its turn under the limits of gpt-5"),
        (9_000, "not_before", "the job asked not to begin before a time"),
    ],
)
def test_a_job_that_may_not_begin_yet_waits_for_its_turn(begins_ms: int | None, code: str, message: str) -> None:
    row = row_of(submitted(turn=Turn(waits=True, not_before_ms=begins_ms)))
    told = waits(row)
    assert told["for"] == "turn"
    assert told["since_ms"] == 1_000
    assert told["until_ms"] == (begins_ms or DEADLINE_MS)
    assert told["because"] == {"code": code, "message": message}


def test_a_running_job_waits_for_a_webhook_or_its_next_poll_and_not_for_its_deadline() -> None:
    view = job_view(row_of(*RUNNING), 3_000)
    assert view["waiting"] == {
        "for": "webhook", "since_ms": 2_000, "until_ms": 7_000,
        "because": {"code": "running", "message": "attempt 1 runs at the provider as resp_1"},
    }  # fmt: skip
    assert view["next_action_at_ms"] == 7_000
    assert view["deadline_at_ms"] == DEADLINE_MS


def test_an_adopted_response_is_polled_at_once() -> None:
    assert waits(row_of(adopted()))["until_ms"] == 1_000


@pytest.mark.parametrize(
    ("facts", "waits_for", "until_ms", "code"),
    [
        ((claimed(), FIRED), "webhook", 17_000, "running"),
        ((claimed(), POLLED), "webhook", 12_000, "in_progress"),
        ((claimed(), POLLED, FAILED), "webhook", 13_000, "poll_failed"),
        ((claimed(), FAILED, POLLED), "webhook", 12_000, "in_progress"),
        ((claimed(), webhook(at_ms=6_000)), "poll", 7_000, "webhook_arrived"),
        ((webhook(at_ms=1_900), claimed()), "poll", 7_000, "webhook_arrived"),
        ((claimed(), webhook(at_ms=6_000), POLLED), "poll", 12_000, "webhook_arrived"),
        ((claimed(), webhook(at_ms=6_000), FAILED), "poll", 13_000, "poll_failed"),
        ((claimed(), webhook("resp_2", at_ms=6_000)), "webhook", 7_000, "running"),
    ],
)
def test_webhooks_and_polls_change_what_a_running_job_waits_for(
    facts: tuple[ResponseFact, ...], waits_for: str, until_ms: int, code: str
) -> None:
    told = waits(row_of(*RUNNING), seen=entries(*facts))
    assert (told["for"], told["until_ms"], told["because"]["code"]) == (waits_for, until_ms, code)


def test_a_webhook_that_is_not_about_the_end_is_none() -> None:
    other = webhook(at_ms=6_000).model_copy(update={"event_type": "response.queued"})
    assert waits(row_of(*RUNNING), seen=entries(other))["for"] == "webhook"


def test_a_job_that_backs_off_waits_for_its_next_attempt_with_the_providers_reason() -> None:
    row = row_of(submitted(), rejected(cause="limited"))
    told = waits(row)
    assert told == {
        "for": "retry", "since_ms": 2_000, "until_ms": due_of(row),
        "because": {"code": "rate_limit_exceeded", "message": PROMPT},
    }  # fmt: skip
    late = waits(row, now_ms=due_of(row) + 5_000)
    assert late == {**told, "for": "lane", "since_ms": due_of(row), "until_ms": DEADLINE_MS}


def test_a_refused_account_needs_an_operator() -> None:
    row = row_of(submitted(), rejected(cause="account"))
    assert waits(row, now_ms=due_of(row) + 5_000)["for"] == "operator"


def test_a_long_message_is_cut_to_one_line() -> None:
    told = rejected(cause="limited").model_copy(update={"message": "a\nb " * 400})
    message = waits(row_of(submitted(), told))["because"]["message"]
    assert len(message) == MESSAGE_CHARS_MAX
    assert message.startswith("a b a b")
    assert message.endswith("…")


def test_an_unknown_outcome_waits_for_a_sign_of_its_response() -> None:
    row = row_of(submitted(), unknown())
    told = waits(row)
    assert (told["for"], told["since_ms"], told["until_ms"]) == ("adoption", 2_000, due_of(row))


def test_an_attempt_that_is_given_up_is_followed_by_a_retry() -> None:
    lost = row_of(submitted(), unknown())
    row = row_of(submitted(), unknown(), timer(at_ms=due_of(lost), due_ms=due_of(lost)))
    assert waits(row)["for"] == "retry"
    assert waits(row)["because"]["code"] == "unknown_outcome"


def test_an_ended_job_waits_for_its_record_on_results() -> None:
    told = waits(row_of(*RUNNING, settled()))
    assert told["for"] == "result"
    assert told["because"]["message"].startswith("the job ended as completed")


def test_a_cancelled_job_has_no_next_action() -> None:
    view = job_view(row_of(*RUNNING, cancelled()), 4_000)
    assert view["waiting"]["for"] == "result"
    assert "next_action_at_ms" not in view


def test_a_partition_without_a_worker_is_what_its_jobs_wait_for() -> None:
    assert waits(row_of(*RUNNING), held=idle_wait("jobs", 2, 5_147_000)) == {
        "for": "worker", "since_ms": 5_147_000,
        "because": {"code": "no_worker", "message": "no worker holds partition 2 of jobs since 01:25:47 UTC"},
    }  # fmt: skip


def test_a_job_that_waits_for_its_turn_shows_where_it_stands_as_why_tells_it() -> None:
    row = row_of(submitted(turn=Turn(waits=True, priority="bulk")))
    place = Place("gpt-5", "bulk", 312, 4_100, "tokens_per_min", 40_000)
    told: Any = job_view(row, 3_000, Sight(place=place)).get("waiting")
    assert told["because"] == {
        "code": "tokens_per_min", "message": "Waiting: tokens_per_min of gpt-5, about 40 s, place 312 of 4,100 (bulk)"
    }  # fmt: skip
    assert told["turn"] == {
        "priority": "bulk", "place": 312, "waiting": 4_100, "reason": "tokens_per_min", "about_ms": 40_000
    }  # fmt: skip
    assert told["because"]["message"] in why(JobSituation(decode_job_state(row.fold_state), 3_000, place=place))[1]


def test_a_job_that_may_begin_now_waits_for_its_turn_and_no_longer_for_its_time() -> None:
    row = row_of(submitted(turn=Turn(waits=True, not_before_ms=60_000)))
    assert waits(row)["because"]["code"] == "not_before"
    told = waits(row, now_ms=60_000)
    assert (told["because"]["code"], told["since_ms"], told["until_ms"]) == ("turn", 60_000, DEADLINE_MS)
