"""Which offsets may be committed, which are finished above those, and how the next owner learns of them."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.workers.offset_notes import NOTE_CHARS_MAX, OFFSETS_TOLD_MAX, PREFIX, decode_note, encode_note
from streams.workers.offsets import PARKED_MAX, Committed, OffsetTracker
from tests.support.builders import T0


def begin(tracker: OffsetTracker, *offsets: int, partition: int = 0) -> list[str]:
    return [tracker.begin(partition, offset, T0 + offset) for offset in offsets]


def test_only_what_is_before_the_first_unfinished_offset_may_be_committed() -> None:
    tracker = OffsetTracker()
    begin(tracker, 5, 6, 9)
    begin(tracker, 1, partition=1)
    assert tracker.unfinished == 4
    tracker.finish(0, 6)
    assert (tracker.unfinished, len(tracker)) == (3, 4)
    assert tracker.progress() == {0: Committed(5, encode_note(5, [6])), 1: Committed(1)}
    tracker.finish(0, 5)
    tracker.finish(0, 9)
    tracker.finish(0, 9)
    tracker.finish(0, 4)
    assert tracker.progress() == {0: Committed(10)}
    assert (tracker.unfinished, len(tracker)) == (1, 1)
    assert tracker.progress() == {}


def test_the_oldest_that_is_not_finished_says_how_far_behind_we_are() -> None:
    tracker = OffsetTracker()
    assert tracker.oldest_ms() is None
    begin(tracker, 5, 6)
    assert tracker.oldest_ms() == T0 + 5
    tracker.finish(0, 5)
    assert tracker.oldest_ms() == T0 + 6


def test_in_a_partition_that_we_keep_nothing_begins_twice() -> None:
    tracker = OffsetTracker()
    tracker.assign({0: Committed(10)})
    begin(tracker, 10, 11, 12)
    tracker.finish(0, 11)
    tracker.assign({0: Committed(10)})
    assert begin(tracker, 10, 11, 12, 13) == ["known", "known", "known", "new"]
    assert tracker.unfinished == 3
    for offset in (10, 12, 13):
        tracker.finish(0, offset)
    assert tracker.progress() == {0: Committed(14)}


def test_a_command_finished_while_another_owner_has_the_partition_is_known_on_its_return() -> None:
    tracker = OffsetTracker()
    tracker.assign({0: Committed(10)})
    begin(tracker, 10, 11, 12)
    tracker.finish(0, 12)
    tracker.assign({})
    assert (tracker.unfinished, len(tracker), tracker.progress()) == (0, 0, {})
    tracker.finish(0, 11)
    tracker.assign({0: Committed(10)})
    assert begin(tracker, 10, 11, 12) == ["new", "known", "known"]
    tracker.finish(0, 10)
    assert tracker.progress() == {0: Committed(13)}


def test_the_next_owner_passes_over_what_the_note_tells_of() -> None:
    first, second = OffsetTracker(), OffsetTracker()
    first.assign({0: Committed(10)})
    begin(first, *range(10, 20))
    for offset in (12, 13, 17):
        first.finish(0, offset)
    second.assign(first.progress())
    assert begin(second, *range(10, 20)) == [
        "again", "again", "known", "known", "again", "again", "again", "known", "new", "new",
    ]  # fmt: skip


def test_offsets_that_another_owner_has_committed_are_done() -> None:
    tracker = OffsetTracker()
    tracker.assign({0: Committed(10)})
    begin(tracker, 10, 11, 12, 13)
    tracker.assign({0: Committed(12, encode_note(12, [13, 14]))})
    assert tracker.unfinished == 1
    assert begin(tracker, 12, 13, 14, 15) == ["known", "known", "known", "new"]
    tracker.finish(0, 12)
    assert tracker.progress() == {0: Committed(15)}


def test_a_log_that_begins_anew_is_not_taken_for_the_old_one() -> None:
    tracker = OffsetTracker()
    tracker.assign({0: Committed(1_000, encode_note(1_000, [1_005]))})
    assert begin(tracker, 0, 1, 2) == ["new", "new", "new"]
    tracker.finish(0, 0)
    assert tracker.progress() == {0: Committed(1)}


def test_a_partition_that_moves_often_fills_no_memory() -> None:
    tracker = OffsetTracker()
    tracker.assign({0: Committed(0)})
    begin(tracker, *range(PARKED_MAX + 2))
    for offset in range(1, PARKED_MAX + 2):
        tracker.finish(0, offset)
    tracker.assign({})
    tracker.assign({0: Committed(0)})
    assert begin(tracker, 0, 1) == ["new", "new"]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=30), st.data())
def test_the_commit_never_passes_an_unfinished_offset_and_its_note_tells_all_that_is_done(
    gaps: list[int], data: st.DataObject
) -> None:
    offsets = [sum(gaps[: index + 1]) for index in range(len(gaps))]
    tracker = OffsetTracker()
    begin(tracker, *offsets)
    open_ones, at = set(offsets), Committed(0)
    for offset in data.draw(st.permutations(offsets)):
        tracker.finish(0, offset)
        open_ones.discard(offset)
        at = tracker.progress().get(0, at)
        assert at.offset is not None
        assert not open_ones or at.offset <= min(open_ones)
        behind = {offset for offset in offsets if offset >= at.offset}
        assert decode_note(at.offset, at.note) == behind - open_ones
    assert at == Committed(offsets[-1] + 1)
    assert len(tracker) == 0


@given(st.data())
def test_through_any_assignments_each_offset_is_done_and_none_is_committed_before(data: st.DataObject) -> None:
    """Two members that own a partition in turn; the unfinished work of a member is lost with its assignment."""
    total, committed, done = 20, Committed(), set[int]()
    members = (OffsetTracker(), OffsetTracker())
    for _ in range(data.draw(st.integers(1, 8))):
        owner = data.draw(st.sampled_from(members))
        for member in members:
            member.assign({0: committed} if member is owner else {})
        came = range(committed.offset or 0, data.draw(st.integers(committed.offset or 0, total)))
        held = [offset for offset in came if owner.begin(0, offset, T0) != "known"]
        for offset in data.draw(st.lists(st.sampled_from(held))) if held else ():
            done.add(offset)
            owner.finish(0, offset)
        if data.draw(st.booleans()):
            committed = owner.progress().get(0, committed)
        assert set(range(committed.offset or 0)) <= done
        assert decode_note(committed.offset or 0, committed.note) <= done


# -- notes


@given(st.integers(0, 1 << 40), st.sets(st.integers(1, 600), max_size=200))
def test_a_note_brings_back_what_it_was_made_of(next_offset: int, distances: set[int]) -> None:
    done = {next_offset + distance for distance in distances}
    assert decode_note(next_offset, encode_note(next_offset, done)) == done


def test_a_note_is_never_too_long_and_tells_the_newest() -> None:
    done = range(1, 200_001, 2)
    note = encode_note(0, done)
    assert len(note) <= NOTE_CHARS_MAX
    told = decode_note(0, note)
    assert len(told) > 1_000
    assert told == frozenset(done[-len(told) :])


def test_a_long_run_costs_a_few_characters() -> None:
    assert len(encode_note(7, range(8, 90_000))) < 20


@pytest.mark.parametrize(
    "note",
    [
        "",
        "x",
        "other",
        PREFIX,
        f"{PREFIX}!",
        f"{PREFIX}gA==",
        f"{PREFIX}AQU=",
        f"{PREFIX}{'A' * 5_000}",
        f"{PREFIX}\u20ac",
    ],
)
def test_a_note_that_is_not_ours_tells_nothing(note: str) -> None:
    assert decode_note(100, note) == frozenset()


@given(st.text(max_size=50), st.binary(max_size=60))
def test_no_note_can_do_harm(text: str, data: bytes) -> None:
    for note in (text, PREFIX + text, PREFIX + base64.b64encode(data).decode()):
        told = decode_note(100, note)
        assert len(told) <= OFFSETS_TOLD_MAX
        assert all(offset >= 100 for offset in told)
