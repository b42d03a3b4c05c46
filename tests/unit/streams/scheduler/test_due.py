"""The index of due times: small, complete, and right for one owned partition or many."""

import pytest

from schemas.results import Reason
from streams.fold import response
from streams.fold.batch import JOB_FOLD, RESPONSE_FOLD
from streams.fold.job import JobState
from streams.fold.rows import encode_row
from streams.scheduler.due import AHEAD_MS, Due, DueIndex, IndexedRows, row_due_ms
from tests.support.builders import DEADLINE, T0
from tests.unit.streams.fold.states import active, backing_off, finished

FAR_MS = T0 + 10 * AHEAD_MS


class World:
    """An index under a clock that the test sets."""

    def __init__(self) -> None:
        self.now_ms = T0
        self.index = DueIndex(lambda: self.now_ms)

    def due(self, *owned: int, limit: int = 100) -> list[tuple[int, bytes, int]]:
        return [(due.due_ms, due.key, due.partition) for due in self.index.due(self.now_ms, limit, owned)]


@pytest.mark.parametrize("partitions", [[0], [5], [0, 1], [0, 1, 2, 3, 4, 5]])
def test_rows_that_were_seen_before_the_partition_was_owned_are_due_after(partitions: list[int]) -> None:
    w = World()
    watch = IndexedRows(JOB_FOLD, w.index)
    row = encode_row(JOB_FOLD.encode_state(finished("completed", T0)), 7)
    due_ms = finished("completed", T0).forget_at_ms
    for partition in partitions:
        watch.opened(partition)
        watch.saw(partition, [(b"gone", row), (b"over", row)])
        watch.saw(partition, [(b"gone", None)])
    w.index.own(partitions)
    assert all(w.index.knows(Due(due_ms, b"over", partition)) for partition in partitions)
    w.now_ms = due_ms
    for partition in iter(lambda: w.index.coming(partitions), None):
        w.index.extend(partition)
        watch.saw(partition, [(b"over", row)])
    assert w.due(*partitions) == [(due_ms, b"over", partition) for partition in partitions]


def test_a_row_that_is_not_owned_is_never_due_and_takes_no_place() -> None:
    w = World()
    for partition in (0, 1):
        w.index.opened(partition)
        w.index.put(partition, b"k", T0 - 1)
    assert w.due(1, limit=1) == [(T0 - 1, b"k", 1)]
    w.index.own([1])
    assert w.due(0, 1) == [(T0 - 1, b"k", 1)]
    w.index.put(0, b"k", T0 - 1)  # a batch that ends after its partition was lost
    assert w.due(0, 1) == [(T0 - 1, b"k", 1)]


def test_a_row_due_beyond_the_horizon_takes_no_place_and_is_read_again_in_time() -> None:
    w = World()
    w.index.opened(0)
    for number in range(1_000):
        w.index.put(0, b"%d" % number, FAR_MS + number)
    assert len(w.index) == 0
    assert w.index.coming([0]) is None
    assert w.index.next_due_ms() == FAR_MS - AHEAD_MS // 2
    w.now_ms = FAR_MS - AHEAD_MS // 2 - 1
    assert w.index.coming([0]) is None
    w.now_ms += 1
    assert w.index.coming([1]) is None
    assert w.index.coming([0]) == 0
    w.index.extend(0)
    assert w.index.coming([0]) is None
    for number in range(1_000):
        w.index.put(0, b"%d" % number, FAR_MS + number)
    w.now_ms = FAR_MS + 1
    assert w.due(0) == [(FAR_MS, b"0", 0), (FAR_MS + 1, b"1", 0)]


def test_a_key_that_moves_far_off_or_near_is_due_once_at_its_last_time() -> None:
    w = World()
    w.index.opened(0)
    w.index.put(0, b"k", T0 + 10)
    w.index.put(0, b"k", FAR_MS)
    w.now_ms = T0 + 10
    assert w.due(0) == []
    w.index.put(0, b"k", T0 + 5)
    assert w.due(0) == [(T0 + 5, b"k", 0)]
    w.index.taken(Due(T0 + 5, b"k", 0))
    assert w.due(0) == []


def test_a_key_that_is_put_again_and_again_leaves_no_more_than_a_few_entries() -> None:
    w = World()
    w.index.opened(0)
    for number in range(10_000):
        w.index.put(0, b"k", T0 + 1 + number % 100)
    assert sum(len(heap) for heap in w.index._heaps.values()) < 100


@pytest.mark.parametrize(
    "state",
    [active(), backing_off(T0 + 1, Reason(code="http_500")), backing_off(DEADLINE + 1, Reason(code="http_500")),
     finished("failed", T0, "resp_1")],
    ids=lambda state: state.kind,
)  # fmt: skip
def test_a_jobs_due_time_is_read_from_its_row_as_the_fold_says_it(state: JobState) -> None:
    row = encode_row(JOB_FOLD.encode_state(state), 12)
    assert row_due_ms(JOB_FOLD, row) == JOB_FOLD.due_ms(state)


def test_words_in_a_pollers_data_do_not_pass_for_an_end() -> None:
    state = finished("failed", T0, '"kind":"finished"', '"forget_at_ms":1')
    for each in (state, active()):
        row = encode_row(JOB_FOLD.encode_state(each), 12)
        assert row_due_ms(JOB_FOLD, row) == JOB_FOLD.due_ms(each)
    unclaimed = response.Unclaimed(T0, response.ReceivedWebhooks(('"kind":"ended"',)), None, T0 + 5)
    assert row_due_ms(RESPONSE_FOLD, encode_row(RESPONSE_FOLD.encode_state(unclaimed), 3)) == T0 + 5
