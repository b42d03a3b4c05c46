"""A run that did ever less is found out; one that only had a bad minute is not."""

from collections import Counter

from schemas.results import JobResult, Timings
from tests.torture.decay import Decay, Minute, completions, decay_of

T0 = 1_750_000_000_000


def result(job_id: str, minute: float, outcome: str) -> JobResult:
    at_ms = T0 + int(minute * 60_000)
    return JobResult.model_validate(
        {"id": f"{job_id}/result", "at_ms": at_ms, "job_id": job_id, "tenant": "default", "outcome": outcome,
         "timings": Timings(submitted_at_ms=at_ms, finished_at_ms=at_ms)}
    )  # fmt: skip


def run(*expired_of_500: int, answers: int = 1_000, repeats: int = 0) -> Decay:
    return Decay(tuple(Minute(500, 500 - expired, expired, 0) for expired in expired_of_500), answers, repeats)


def test_jobs_are_counted_by_the_minute_of_their_submission() -> None:
    results = {
        "a": result("a", 0, "completed"), "b": result("b", 0.9, "expired"), "c": result("c", 2.1, "expired"),
        "d": result("d", 2.2, "expired"), "e": result("e", 2.9, "failed"),
    }  # fmt: skip
    deadlines_ms = dict.fromkeys(results, T0 + 300_000)
    truth = [
        {"job": "b", "state": "completed", "at_ms": T0 + 290_001}, {"job": "c", "state": "in_progress", "at_ms": T0},
        {"job": "c", "state": "completed", "at_ms": T0 + 290_000},
        {"job": "c", "state": "completed", "at_ms": T0 + 299_000},
    ]  # fmt: skip
    decay = decay_of(results, deadlines_ms, completions(truth), Counter({"x": 1, "y": 3}))
    assert decay == Decay((Minute(2, 1, 1, 0), Minute(0, 0, 0, 0), Minute(3, 0, 2, 1)), answers=4, repeats=2)


def test_an_end_that_is_worse_than_the_beginning_is_found() -> None:
    assert run(50, 60, 40, 55, 80, 90).found() == (["11.0 % at first, 17.0 % at the end"], [])


def test_a_bad_minute_in_between_is_no_decay_and_neither_is_a_bad_beginning() -> None:
    assert run(50, 60, 300, 200, 60, 50).found() == ([], [])
    assert run(200, 60, 50, 50, 60, 50).found() == ([], [])


def test_few_jobs_prove_nothing() -> None:
    few = Decay(tuple(Minute(20, 20 - expired, expired, 0) for expired in (1, 5, 10)), 100, 90)
    assert few.found() == ([], [])
    assert decay_of({}, {}, {}, Counter()).found() == ([], [])


def test_polls_that_are_answered_again_and_again_are_found() -> None:
    assert run(50, 50, 50, answers=29_575, repeats=14_687).found() == ([], ["14687 of 29575"])
    assert run(50, 50, 50, answers=29_575, repeats=3_223).found() == ([], [])
