"""What is said of a job in each state, for each reason: one case a row, compared whole."""

from collections.abc import Sequence
from typing import Any, get_args

import pytest

from backstop.readmodel.answers import ResultView
from backstop.readmodel.costs import Tally
from backstop.readmodel.rows import PLACES_MAX, Place, Position, TimelineEntry
from backstop.readmodel.view import result_view
from backstop.readmodel.why import JobSituation, next_at_ms, next_poll_of, why
from schemas.base import Cause, Message
from schemas.jobs import AdoptionRefused, Turn
from schemas.results import JobResult
from streams.fold.job import Absent, JobState, step
from streams.submission import SubmissionPolicy
from tests.support.builders import hedge_permitted
from tests.unit.backstop.readmodel.logs import (
    DEADLINE_MS,
    accepted,
    adopted,
    cancelled,
    refused,
    rejected,
    settled,
    submitted,
    timer,
    unknown,
)

NOW_MS = 3_000
FREE, FREE_END = "So far it cost nothing.", "It cost nothing."
EXPIRES = "The job ends as expired at 02:46:40 UTC (in 2 h 46 min) if no attempt ends before."


def seen(*facts: Message, now_ms: int = NOW_MS, **more: Any) -> JobSituation:
    """The job after these facts."""
    state: JobState = Absent()
    result: JobResult | None = None
    for fact in facts:
        taken = step(state, fact)  # type: ignore[arg-type]  # facts of a job
        state = taken.state
        result = result or next((each for each in taken.outputs if isinstance(each, JobResult)), None)
    return JobSituation(state, now_ms, more.pop("result", result), **more)


def said(*facts: Message, **more: Any) -> list[str]:
    return why(seen(*facts, **more))


def failed(
    cause: Cause | None = "faulty", code: str | None = "server_error", at_ms: int = 9_000, **changes: Any
) -> Message:
    update = {"status": "failed", "cause": cause, "code": code, "message": "Sorry.", "usage": None} | changes
    return settled(at_ms=at_ms).model_copy(update=update)


def due_ms(*facts: Message) -> int:
    at_ms = next_at_ms(seen(*facts))
    assert at_ms is not None
    return at_ms


EARLY: tuple[Message, ...] = (submitted(), accepted())
REPORT_MS = due_ms(submitted())
LOST: tuple[Message, ...] = (submitted(), timer(due_ms=REPORT_MS, at_ms=REPORT_MS))
ADOPT_MS = due_ms(*LOST)
GIVEN_UP: tuple[Message, ...] = (*LOST, timer(due_ms=ADOPT_MS, at_ms=ADOPT_MS))
END = timer(due_ms=DEADLINE_MS, at_ms=DEADLINE_MS)


@pytest.mark.parametrize(
    ("job", "then"),
    [
        (
            JobSituation(Absent(), NOW_MS),
            ["The job is accepted, and its facts have not been read from the log yet."],
        ),
        (
            seen(submitted().model_copy(update={"turn": Turn(waits=True)})),
            ["The job waits for its turn under the limits of gpt-5, since 2 s.", EXPIRES],
        ),
        (
            seen(
                submitted().model_copy(update={"turn": Turn(waits=True)}),
                place=Place("gpt-5", "bulk", 312, 4_100, "tokens_per_min", 40_000),
            ),
            [
                "The job waits for its turn under the limits of gpt-5, since 2 s.",
                "Waiting: tokens_per_min of gpt-5, about 40 s, place 312 of 4,100 (bulk).",
                EXPIRES,
            ],
        ),
        (
            seen(
                submitted().model_copy(update={"turn": Turn(waits=True)}),
                place=Place("gpt-5", "normal", PLACES_MAX, PLACES_MAX, "lane"),
            ),
            [
                "The job waits for its turn under the limits of gpt-5, since 2 s.",
                "Waiting: lane of gpt-5, time unknown, beyond place 10,000 (normal).",
            ],
        ),
        (
            seen(submitted().model_copy(update={"turn": Turn(waits=True, not_before_ms=63_000)})),
            ["The job asked not to begin before a time, which comes at 00:01:03 UTC (in 60 s).", EXPIRES],
        ),
        (
            seen(submitted()),
            ["Attempt 1 waits for the provider to accept it, since 2 s; without a report its outcome"],
        ),
        (
            seen(*EARLY, next_poll_at_ms=20_000),
            [
                ("Attempt 1 runs at the provider as resp_1, accepted 1 s ago: a webhook or a poll will tell its end; "
                "the next poll is at 00:00:20 UTC (in 17 s).")
            ],
        ),
        (seen(adopted()), ["Attempt 1 runs at the provider as resp_1 (found by a poll"]),
        (
            seen(*LOST, now_ms=REPORT_MS),
            ["The create of attempt 1 was sent, and it is not known whether the provider took it: a webhook may still"],
        ),
        (
            seen(submitted(), unknown().model_copy(update={"answered": True, "message": "upstream timed out"})),
            [("The create of attempt 1 was sent and was answered with an error that proves no refusal, and it is "
             "not known whether the provider took it (upstream timed out): a webhook")],
        ),
        (
            seen(*GIVEN_UP, now_ms=ADOPT_MS),
            [("The job waits because the attempt before failed by an error at the provider, or brought no end: "
             "unknown_outcome, the create was sent, and its outcome stayed unknown."), "Attempt 2 begins at "],
        ),
    ],
)  # fmt: skip
def test_an_open_job_says_what_it_waits_for(job: JobSituation, then: list[str]) -> None:
    told = why(job)
    for expected, text in zip(then, told, strict=False):
        assert text.startswith(expected.removesuffix(".")), told
    assert told[-1] == FREE


CAUSES: dict[Cause, str] = {
    "limited": "the provider limits the rate of requests or tokens",
    "overloaded": "the provider has no capacity at the moment",
    "faulty": "the attempt before failed by an error at the provider, or brought no end",
    "later": "the provider says that the request can be served later",
    "account": "the provider refuses the account until an operator acts (key, quota, billing or permission)",
    "odd": "the provider refused without a known reason",
    "held": "creates of its model are held",
    "unsent": "the create could not be sent: no connection, or its command had expired",
}


def test_each_cause_of_a_wait_has_its_sentence() -> None:
    assert {*CAUSES, "never"} == set(get_args(Cause))
    for cause, words in CAUSES.items():
        first, second, *rest = said(submitted(), rejected(cause=cause), now_ms=2_000)
        assert first.startswith(
            f"The job waits because {words}: rate_limit_exceeded (HTTP 429), in the provider's words:"
        )
        assert second.startswith("Attempt 2 begins at 00:0"), second
        assert rest == (
            [FREE] if cause == "held" else ["Before, the provider refused 1 create, which cost nothing.", FREE]
        )


def test_a_held_job_says_why_its_lane_is_closed_and_that_it_is_due() -> None:
    held = rejected(cause="held").model_copy(update={"held_for": "account"})
    first, second, _ = said(submitted(), held, now_ms=500_000)
    assert first.startswith(f"The job waits because creates of its model are held, as {CAUSES['account']}: ")
    assert second == "Attempt 2 is due and begins as soon as the lane of its model is open."


def test_a_job_whose_next_attempt_comes_too_late_says_so() -> None:
    late = rejected(cause="limited", at_ms=DEADLINE_MS - 1_000)
    assert said(submitted(), late, now_ms=DEADLINE_MS - 1_000)[1] == (
        "The next attempt would begin after the deadline, so the job expires at 02:46:40 UTC (in 1 s)."
    )


def test_the_last_wait_is_for_an_attempt_of_unknown_outcome() -> None:
    begun = due_ms(*GIVEN_UP)
    facts = (*GIVEN_UP, timer(due_ms=begun, at_ms=begun), rejected(at_ms=begun + 1, attempt=2, cause="never"))
    (first, *_) = said(*facts)
    assert first.startswith("No further attempt is granted after the last one failed (rate_limit_exceeded (HTTP 429)")
    assert "the job waits until its deadline" in first


POLICY = submitted().policy.model_copy(update={"retries_max": 0, "rejections_max": 0, "unpaid_ends_max": 0})
ONCE = submitted(policy=POLICY)


TAKEN = AdoptionRefused(id="x", at_ms=2_000, job_id="j", response_id="resp_1", message="It is another's.")


@pytest.mark.parametrize(
    ("facts", "first"),
    [
        ((*EARLY, settled()), "The job completed, 8 s after its submission."),
        (
            (*EARLY, failed("never", "invalid_prompt")),
            "The job failed: invalid_prompt, in the provider's words: Sorry, 8 s after its submission.",
        ),
        (
            (ONCE, accepted(), failed()),
            ("The job failed: server_error, in the provider's words: Sorry. (all 0 retries after ends that cost "
            "nothing are used), 8 s after its submission."),
        ),
        ((ONCE, rejected()), "The job failed: rate_limit_exceeded (HTTP 429), in the provider's words: canary prompt"),
        (
            (*EARLY, failed(None, "max_output_tokens", status="incomplete", message=None)),
            "The job ended with an incomplete output: max_output_tokens, 8 s after its submission.",
        ),
        ((*EARLY, cancelled()), "The job was cancelled: cancel_requested, cancelled by its submitter, 2 s after"),
        (
            (*EARLY, failed(None, status="cancelled", code=None, message=None)),
            "The job was cancelled by the provider: cancelled, 8 s after its submission.",
        ),
        ((*EARLY, END), "The job's deadline passed: deadline, not ended 9999000 ms after its submission, 2 h 46"),
        ((refused(),), "The job was rejected before any attempt: invalid, canary prompt"),
        (
            (adopted(), TAKEN),
            ("The job was rejected, as it can't adopt the response: response_taken, It is another's, "
            "1 s after its submission."),
        ),
    ],
)  # fmt: skip
def test_an_ended_job_says_why(facts: Sequence[Message], first: str) -> None:
    told = said(*facts)
    assert told[0].startswith(first), told[0]
    assert told[-1] == FREE_END
    assert next_at_ms(seen(*facts)) is None


def test_a_job_that_ended_and_is_not_published_yet_says_so() -> None:
    ended = seen(*EARLY, settled())
    assert why(JobSituation(ended.state, NOW_MS))[0] == (
        "The job has ended as completed; its record on the topic `results` has not been read yet."
    )


def test_earlier_attempts_and_refusals_are_told() -> None:
    retry = due_ms(submitted(), rejected())
    facts: tuple[Message, ...] = (
        submitted(),
        rejected(),
        timer(due_ms=retry, at_ms=retry),
        accepted(at_ms=retry + 1, attempt=2),
    )
    facts += (failed(at_ms=retry + 2, attempt=2),)
    again = due_ms(*facts)
    facts += (
        timer(due_ms=again, at_ms=again),
        accepted(at_ms=again + 1, attempt=3, response_id="resp_3"),
        settled(at_ms=again + 2, attempt=3, response_id="resp_3"),
    )
    assert said(*facts)[1] == (
        "Before, 1 attempt ended without an answer: failed (server_error) and the provider refused 1 create, which "
        "cost nothing."
    )


HEDGED: tuple[Message, ...] = (
    submitted(policy=SubmissionPolicy().stamp(None).model_copy(update={"hedge": True})),
    accepted(),
    hedge_permitted(302_000, response_id="resp_1", job_id="j"),
)
BOTH_RUN: tuple[Message, ...] = (*HEDGED, accepted(at_ms=303_000, attempt=2, response_id="resp_2"))
BESIDE = (
    "Attempt 2 is a second attempt beside attempt 1, begun when that had run for 3 min; the first of the two to "
    "complete ends the job."
)


def test_an_open_job_says_that_it_has_a_second_attempt() -> None:
    for facts in (HEDGED, BOTH_RUN):
        first, second, third, *_ = said(*facts, now_ms=304_000)
        assert first.startswith("Attempt 1 runs at the provider as resp_1")
        assert second.startswith("Attempt 2 ")
        assert third == BESIDE
    failed_first = failed(at_ms=310_000)
    assert BESIDE not in said(*BOTH_RUN, failed_first, now_ms=311_000)


def test_an_ended_job_says_which_of_two_attempts_won_and_by_how_much() -> None:
    begun = "It was hedged: attempt 2 was begun beside attempt 1 after 3 min, and "
    hedge = settled(at_ms=400_000, attempt=2, response_id="resp_2")
    assert said(*BOTH_RUN, hedge)[1:] == [f"{begun}won, ahead by 5 min or more.", FREE_END]
    first = settled(at_ms=400_000)
    assert said(*BOTH_RUN, first)[1:] == [f"{begun}attempt 1 won after all.", FREE_END]
    ended = cancelled(at_ms=400_000)
    assert said(*BOTH_RUN, ended)[1] == f"{begun}neither of the two decided the job."


def test_costs_are_told_with_what_is_not_in_them() -> None:
    view = Tally().view() | {"attempts": 3, "unmeasured": 1, "unpriced": 1, "input_tokens": 1_200, "output_tokens": 30}
    assert said(*EARLY, settled(), cost=view | {"cost_usd": "0.0012"})[-1] == (
        "It cost $0.0012 (1,200 input and 30 output tokens); not counted are 1 attempt of unknown usage and 1 attempt "
        "without a price."
    )
    del view["cost_usd"]
    assert said(*EARLY, cost=view)[-1].startswith("So far it cost an unknown amount (")


def test_the_next_time_is_the_earlier_of_poll_and_timer() -> None:
    assert next_at_ms(seen(*EARLY)) == DEADLINE_MS
    assert next_at_ms(seen(*EARLY, next_poll_at_ms=7_000)) == 7_000
    entries = [
        TimelineEntry("j", 1, "x", b'{"next_poll_at_ms":%d}' % at_ms, Position("responses", 0, 1)) for at_ms in (5, 9)
    ]
    assert (next_poll_of(entries, 6), next_poll_of(entries, 9), next_poll_of([], 0)) == (9, None, None)


def test_a_job_is_shown_with_each_field_of_its_result() -> None:
    """But the envelope, what the job itself shows, and the output, which is read apart."""
    apart = {"v", "type", "id", "at_ms", "job_id", "tenant", "model", "session_id", "tags", "retry_of"}
    apart |= {"response", "response_url", "traceparent"}
    record = {name: name for name in JobResult.model_fields}
    assert set(JobResult.model_fields) - set(result_view(record)) == apart
    assert set(result_view(record)) <= set(ResultView.__annotations__)
