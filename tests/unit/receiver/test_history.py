"""Partial output in memory: runs have no gaps, even if records are repeated, lost, or published again."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from receiver.partial_output.history import Histories, JobHistory, Run
from schemas.partials import PartialOutput

TEXT = "response.output_text.delta"


def partial(after: int, *numbers: int, **changes: Any) -> PartialOutput:
    events = tuple({"type": TEXT, "sequence_number": number, "delta": str(number)} for number in numbers)
    given: dict[str, Any] = {
        "id": "p", "at_ms": 1, "job_id": "job_1", "tenant": "acme", "attempt": 1, "response_id": "resp_1",
        "after": after, "events": events,
    }  # fmt: skip
    return PartialOutput(**{**given, **changes})


def run_of(*partials: PartialOutput) -> Run:
    history = JobHistory("acme")
    for each in partials:
        history.take(each)
    return history.runs[1]


def numbers(run: Run, after: int = -1) -> list[int]:
    return [event.number for event in run.after(after)]


def test_records_follow_each_other_and_repeats_add_nothing() -> None:
    run = run_of(partial(-1, 0, 1), partial(1, 2, 3), partial(1, 2, 3), partial(-1, 0, 1), partial(2, 3, 4))
    assert (run.start_after, numbers(run), numbers(run, 2)) == (-1, [0, 1, 2, 3, 4], [3, 4])


def test_behind_a_hole_a_run_begins_anew() -> None:
    run = run_of(partial(-1, 0, 1), partial(4, 5, 6))
    assert (run.start_after, numbers(run)) == (4, [5, 6])


def test_events_published_again_from_the_start_replace_the_run_once_they_have_caught_up() -> None:
    late = [partial(4, 5, 6), partial(6, 7)]
    run = run_of(*late, partial(-1, 0, 1, 2))
    assert (run.start_after, numbers(run)) == (4, [5, 6, 7]), "not yet"
    run = run_of(*late, partial(-1, 0, 1, 2), partial(7, 8), partial(2, 3, 4, 5), partial(5, 6, 7, 8))
    assert (run.start_after, numbers(run)) == (-1, list(range(9)))


def test_numbers_that_the_provider_leaves_out_are_no_hole() -> None:
    run = run_of(partial(-1, 0, 3), partial(3, 7))
    assert (run.start_after, numbers(run)) == (-1, [0, 3, 7])


def test_the_end_and_the_cut_stay() -> None:
    run = run_of(partial(-1, 0), partial(0, end_number=1), partial(-1, 0))
    assert (run.end_number, run.truncated) == (1, None)
    assert run_of(partial(-1, 0, truncated="event_too_large"), partial(-1, 0)).truncated == "event_too_large"


def test_the_first_events_are_no_output() -> None:
    begun = {"type": "response.in_progress", "sequence_number": 0}
    run = run_of(partial(-1, events=(begun,)))
    assert not run.has_output
    run.take(partial(0, 1))
    assert run.has_output


def test_what_is_no_event_is_passed_over() -> None:
    odd = ({"type": TEXT}, {"sequence_number": 1}, {"type": "a\nid: 7", "sequence_number": 1})
    assert numbers(run_of(partial(-1, events=odd))) == []


def test_a_second_response_of_an_attempt_is_not_mixed_into_the_first() -> None:
    history = JobHistory("acme")
    history.take(partial(-1, 0))
    history.take(partial(0, 1, response_id="resp_2"))
    history.take(partial(-1, 0, attempt=3, response_id="resp_3"))
    history.take(partial(-1, 0, attempt=2, response_id="resp_4"))
    assert (list(history.runs), numbers(history.runs[1])) == ([1, 2, 3], [0])


def test_the_job_that_was_heard_of_longest_ago_is_forgotten_first() -> None:
    kept = Histories(bytes_max=1_000, keep_s=100)
    for second, job in enumerate(("a", "b", "c", "a")):
        kept.take(partial(second - 1, second, job_id=job), second)
    assert list(kept.jobs) == ["b", "c", "a"]
    kept.take(partial(-1, *range(4), job_id="d"), 5)
    assert list(kept.jobs) == ["a", "d"]
    assert kept.size_bytes == sum(history.size_bytes for history in kept.jobs.values()) <= 1_000
    kept.take(partial(-1, 0, job_id="e"), 104)
    assert list(kept.jobs) == ["d", "e"], "its time was over"
    kept.take(partial(-1, *range(20), job_id="huge"), 105)
    assert (list(kept.jobs), kept.size_bytes) == ([], 0)


def test_another_tenants_job_is_not_there() -> None:
    kept = Histories(1_000, 100)
    kept.take(partial(-1, 0), 1)
    kept.take(partial(0, 1, tenant="globex"), 1)
    assert kept.get("job_1", "globex") is None
    mine = kept.get("job_1", "acme")
    assert mine is not None
    assert numbers(mine.runs[1]) == [0]


STREAM = list(range(12))


@given(st.lists(st.tuples(st.integers(-1, 11), st.integers(1, 6)), max_size=30))
def test_a_run_never_has_a_hole_or_a_repeat(told: list[tuple[int, int]]) -> None:
    """For records of followers in any order: each record is valid, and so is the resulting run."""
    run = run_of(partial(-1), *(partial(after, *STREAM[after + 1 : after + 1 + count]) for after, count in told))
    assert numbers(run) == list(range(run.start_after + 1, run.last + 1))
    assert run.size_bytes >= 0
