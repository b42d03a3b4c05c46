"""The table of `why`: each state, cause, outcome and reason has its sentences; a new member without a row fails."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from backstop.readmodel.rows import Place
from backstop.readmodel.why import JobSituation, why
from schemas.base import Cause, Message, Usage
from schemas.fallbacks import Fallback, Fallbacks
from schemas.jobs import FallbackTaken, JobChanged, JobFoundTooLate, RetryOf, Turn
from schemas.pauses import CreatesPaused, PauseScope
from schemas.spend_caps import SpendCap
from schemas.statuses import JOB_OUTCOMES, JobOutcome, SettledStatus
from streams import fold
from streams.fold import attempts
from streams.fold.job import Absent, Status, status
from streams.policy.lane_queue import Why
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
)
from tests.unit.backstop.readmodel.test_why import (
    ADOPT_MS,
    EARLY,
    END,
    FREE,
    FREE_END,
    GIVEN_UP,
    LOST,
    NOW_MS,
    ONCE,
    REPORT_MS,
    TAKEN,
    due_ms,
    failed,
    seen,
)

QUEUED = submitted(turn=Turn(waits=True))
LATER = submitted(turn=Turn(waits=True, not_before_ms=63_000))
PAUSED = CreatesPaused(
    id="p", at_ms=1_000, scope=PauseScope(model="gpt-5"), by="Ann", why="the key is rotated"
)  # fmt: skip

SPENT = CreatesPaused(
    id="b", at_ms=1_000, scope=PauseScope(tenant="default", budget="day"), by="the budget per day",
    why="$5 of $5 per day spent since 1970-01-01 (100 %)",
)  # fmt: skip


def changed(at_ms: int = 2_500, **changes: Any) -> Message:
    fields = {"id": f"j/changed/{at_ms}", "at_ms": at_ms, "job_id": "j", "tenant": "default", "ingress": "http"}
    return JobChanged(**fields, why="not needed", by="Ann", **changes)


def place(reason: Why | None, about_ms: int | None = 40_000) -> Place:
    return Place("gpt-5", "bulk", 312, 4_100, reason, about_ms)


AGAIN_MS = due_ms(*GIVEN_UP)
BESIDE: tuple[Message, ...] = (*GIVEN_UP, timer(due_ms=AGAIN_MS, at_ms=AGAIN_MS))
FAILED: tuple[Message, ...] = (*EARLY, failed(at_ms=2_500))
RETRY_MS = due_ms(*FAILED)
NEVER_TWICE = submitted(policy=submitted().policy.model_copy(update={"retries_max": 0}))
NOT_REFUSED = submitted(policy=submitted().policy.model_copy(update={"rejections_max": 0}))
REPEATED_MS = due_ms(NOT_REFUSED, accepted(), failed())
CAPPED = submitted(cap=SpendCap(tokens_max=1_000, input_tokens=11, output_tokens=2_000))
FALLING = submitted(fallback=Fallbacks(to=(Fallback(model="gpt-5.2"),)))
FELL = FallbackTaken(id="j/fallback/1", at_ms=63_000, job_id="j", number=1, closed_ms=61_000, code="invalid_api_key")
AT_ONCE_MS = due_ms(FALLING, rejected(cause="never"))
ANSWERED: tuple[Message, ...] = (
    timer(due_ms=AT_ONCE_MS, at_ms=AT_ONCE_MS), accepted(attempt=2), settled().model_copy(update={"attempt": 2}),
)  # fmt: skip
TOO_LATE = JobFoundTooLate(id="x", at_ms=DEADLINE_MS - 30_000, job_id="j", needs_ms=60_000)

STATUSES: dict[Status, JobSituation] = {
    "absent": JobSituation(Absent(), NOW_MS),
    "waiting": seen(QUEUED),
    "submitting": seen(submitted()),
    "running": seen(*EARLY, next_poll_at_ms=20_000),
    "unknown": seen(*LOST, now_ms=REPORT_MS),
    "backing_off": seen(submitted(), rejected()),
    "finished": JobSituation(seen(*EARLY, settled()).state, NOW_MS),
}
BESIDES: dict[str, JobSituation] = {
    "waits until a time": seen(LATER),
    "waits, paused": seen(QUEUED, paused=(PAUSED,)),
    "waits, budget used up": seen(QUEUED, paused=(SPENT,)),
    "backing off, budget used up": seen(submitted(), rejected(), paused=(SPENT,)),
    "waits, changed": seen(QUEUED, changed(priority="bulk", deadline_at_ms=100_000)),
    "waits, repeats": seen(submitted(turn=Turn(waits=True), retry=RetryOf(job_id="old", why="w"))),
    "ended, retried": seen(ONCE, rejected(), retried_as="retry_1"),
    "submitting, paused": seen(submitted(), paused=(PAUSED,)),
    "backing off, paused": seen(submitted(), rejected(), paused=(PAUSED,)),
    "waits for a lane, with a fallback": seen(FALLING, rejected(cause="account"), now_ms=2_000),
    "fell back from a lane": seen(FALLING, rejected(cause="account"), FELL, now_ms=64_000),
    "fell back after a refusal": seen(FALLING, rejected(cause="never")),
    "ended after a fallback": seen(FALLING, rejected(cause="never"), *ANSWERED),
    "backing off, for its turn": seen(QUEUED, timer(due_ms=1_000, at_ms=1_500), rejected(cause="unsent"), now_ms=9_000),
}
ATTEMPTS: dict[type[attempts.Attempt], JobSituation] = {
    attempts.Submitting: STATUSES["submitting"],
    attempts.Running: STATUSES["running"],
    attempts.OutcomeUnknown: STATUSES["unknown"],
    attempts.Abandoned: seen(*BESIDE, now_ms=AGAIN_MS + 1),
    attempts.Over: seen(*FAILED, timer(due_ms=RETRY_MS, at_ms=RETRY_MS), now_ms=RETRY_MS + 1),
}
TURNS: dict[Why, JobSituation] = {each: seen(QUEUED, place=place(each)) for each in get_args(Why)}
CAUSED: dict[Cause, JobSituation] = {
    each: seen(NEVER_TWICE, rejected(cause=each), now_ms=2_000) for each in get_args(Cause)
}  # fmt: skip
HELD: dict[Cause, JobSituation] = {
    each: seen(submitted(), rejected(cause="held").model_copy(update={"held_for": each}), now_ms=2_000)
    for each in get_args(Cause)
}
SETTLED: dict[SettledStatus, JobSituation] = {
    each: seen(*EARLY, failed(None, None, at_ms=2_500, status=each, message=None)) for each in get_args(SettledStatus)
}
REASONS: dict[str, JobSituation] = {
    "cancel_requested": seen(*EARLY, cancelled()),
    "deadline": seen(*EARLY, END),
    "deadline, moved": seen(*EARLY, changed(deadline_at_ms=0)),
    "deadline, waiting": seen(QUEUED, timer(due_ms=1_000, at_ms=DEADLINE_MS)),
    "would_not_finish": seen(QUEUED, TOO_LATE),
    "cost_cap": seen(CAPPED, *EARLY[1:], failed(at_ms=2_500, usage=Usage(output_tokens=900))),
    "cost_cap, at once": seen(submitted(cap=SpendCap(tokens_max=10, input_tokens=11, output_tokens=2))),
    "response_taken": seen(adopted(), TAKEN),
    "response_repeated": seen(
        NOT_REFUSED, accepted(), failed(), timer(due_ms=REPEATED_MS, at_ms=REPEATED_MS), accepted(attempt=2)
    ),
    "unknown_outcome": seen(
        NEVER_TWICE, timer(due_ms=REPORT_MS, at_ms=REPORT_MS), timer(due_ms=ADOPT_MS, at_ms=ADOPT_MS)
    ),
}
OUTCOMES: dict[JobOutcome, JobSituation] = {
    "completed": seen(*EARLY, settled()),
    "failed": seen(ONCE, rejected()),
    "incomplete": seen(*EARLY, failed(None, "max_output_tokens", status="incomplete", message=None)),
    "cancelled": seen(*EARLY, failed(None, status="cancelled", code=None, message=None)),
    "expired": seen(*EARLY, END),
    "rejected": seen(refused()),
}
GROUPS: Mapping[str, Mapping[Any, JobSituation]] = {
    "status": STATUSES, "besides": BESIDES, "attempt": ATTEMPTS, "turn": TURNS, "cause": CAUSED, "held for": HELD,
    "settled": SETTLED, "reason": REASONS, "outcome": OUTCOMES,
}  # fmt: skip
CASES = {
    f"{group}: {getattr(member, '__name__', member)}": case
    for group, members in GROUPS.items()
    for member, case in members.items()
}
TABLE = Path(__file__).with_name("why_table.txt")
"""A case's name, then its sentences, indented; an empty line between two cases."""


def told() -> dict[str, list[str]]:
    """The table: by case, its sentences without what the costs are."""
    cases: dict[str, list[str]] = {}
    for block in TABLE.read_text().strip().split("\n\n"):
        name, *sentences = block.split("\n")
        cases[name] = [sentence.removeprefix("    ") for sentence in sentences]
    return cases


@pytest.mark.parametrize("name", CASES)
def test_each_case_has_these_sentences(name: str) -> None:
    *said, cost = why(CASES[name])
    assert said == told()[name]
    assert cost == (FREE if CASES[name].result is None else FREE_END)
    assert 1 <= len(said) <= 4


def test_the_table_has_no_row_without_a_case() -> None:
    assert list(told()) == list(CASES)


def reasons_of_the_fold() -> set[str]:
    """The codes that the job fold itself gives."""
    codes: set[str] = set()
    for file in Path(fold.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Reason":
                codes |= {
                    str(word.value.value)
                    for word in node.keywords
                    if word.arg == "code" and isinstance(word.value, ast.Constant)
                }
    return codes


def test_the_cases_are_all_members_of_each_closed_set() -> None:
    assert set(STATUSES) == set(get_args(Status))
    assert set(ATTEMPTS) == set(get_args(attempts.Attempt))
    assert set(OUTCOMES) == set(JOB_OUTCOMES)
    assert {code.partition(",")[0] for code in REASONS} == reasons_of_the_fold()
    for state, case in STATUSES.items():
        assert status(case.state) == state
    for kind, case in ATTEMPTS.items():
        assert any(isinstance(item, kind) for item in getattr(case.state, "attempts").items)  # noqa: B009
