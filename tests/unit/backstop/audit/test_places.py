"""Where a job's records are read, and what proves that they were there."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstop.audit.places import (
    COMMANDS_AFTER_MS,
    COMMANDS_BEFORE_MS,
    NEAR_RECORDS,
    PlacesDifferError,
    check,
    commands_since_ms,
    commands_until_ms,
    spans,
)
from backstop.runtime.records import Record


def record(topic: str, offset: int, at_ms: int = 0) -> Record:
    return Record(topic, 3, offset, at_ms, b"j", b"{}")


def test_places_that_are_near_are_read_in_one_go() -> None:
    near, far = 10 + NEAR_RECORDS, 10 + 2 * NEAR_RECORDS + 1
    assert spans([10, near, far]) == [(10, near + 1), (far, far + 1)]
    assert spans([]) == []


@given(st.sets(st.integers(0, 10_000)).map(sorted))
def test_each_place_is_in_one_span_and_spans_are_apart(offsets: list[int]) -> None:
    found = spans(offsets)
    assert all(sum(first <= offset < end for first, end in found) == 1 for offset in offsets)
    assert all(later[0] - earlier[1] >= NEAR_RECORDS for earlier, later in pairwise(found))
    assert {first for first, _ in found} | {end - 1 for _, end in found} <= set(offsets)


def test_a_place_without_its_record_is_noticed_unless_retention_removed_it() -> None:
    there = [record("jobs", 7), record("jobs", 9)]
    check(("jobs", 3), [7, 9], 0, there)
    check(("jobs", 3), [2, 7, 9], 3, there)
    with pytest.raises(PlacesDifferError, match="jobs:3:2 holds no record of it"):
        check(("jobs", 3), [2, 7, 9], 2, there)


def test_commands_lie_between_the_first_fact_and_soon_after_the_last_one() -> None:
    facts = [record("jobs", 1, 5_000_000), record("jobs", 2, 4_000_000), record("responses", 1, 6_000_000)]
    assert commands_since_ms(facts) == 4_000_000 - COMMANDS_BEFORE_MS
    assert commands_until_ms(facts) is None, "the job may still ask for commands"
    ended = [*facts, record("results", 1, 5_500_000)]
    assert commands_until_ms(ended) == 6_000_000 + COMMANDS_AFTER_MS
