"""The holder of a partition, since when it has none, and how long its reader has stood still."""

from collections.abc import Mapping

from backstop.runtime.kafka.holdings import REBALANCE_MS, GroupSeen, Holding, Holdings, Member, Snapshot
from backstop.runtime.process.identity import ProcessName, name_from, own_name
from backstop.runtime.records import Partition

ZERO, ONE = ("jobs", 0), ("jobs", 1)
REQUESTS = ("requests.acme", 0)
BOTH = frozenset({ZERO, ONE})


def snapshot(
    at_ms: int, members: Mapping[str, frozenset[Partition]], committed: int = 10, end: int = 10, state: str = "Stable"
) -> Snapshot:
    group = GroupSeen(
        "worker", state,
        tuple(Member(name, "10.0.0.1", held) for name, held in members.items()),
        dict.fromkeys(BOTH, committed),
    )  # fmt: skip
    return Snapshot(at_ms, (group,), dict.fromkeys(BOTH, end), 1)


def after(*snapshots: Snapshot) -> Holdings:
    held = Holdings()
    for each in snapshots:
        held = held.saw(each)
    return held


def of(held: Holdings, partition: Partition = ZERO) -> Holding:
    return held.held["worker", partition]


ALL = {"a": BOTH}
EMPTY: dict[str, frozenset[Partition]] = {}


def test_a_partition_is_held_by_the_member_that_has_it() -> None:
    held = after(snapshot(1, {"a": frozenset({ZERO}), "b": frozenset({ONE})}))
    assert (of(held).holder, of(held, ONE).holder) == ("a", "b")
    assert held.unassigned() == []
    assert held.idle(ZERO) is None


def test_a_partition_without_a_member_is_told_with_the_time_since_when() -> None:
    held = after(snapshot(1, ALL), snapshot(4, {"a": frozenset({ZERO})}), snapshot(7, {"a": frozenset({ZERO})}))
    (found,) = held.unassigned()
    assert (found.topic, found.partition, found.unassigned_since_ms) == ("jobs", 1, 4)
    assert held.idle(ONE) == found


def test_a_group_without_members_holds_nothing() -> None:
    assert len(after(snapshot(1, EMPTY, state="Empty")).unassigned()) == 2


def test_a_short_rebalance_leaves_its_partitions_with_their_holders() -> None:
    moving = snapshot(5, EMPTY, state="PreparingRebalance")
    assert after(snapshot(1, ALL), moving).unassigned() == []
    assert after(snapshot(1, ALL), moving, snapshot(9, {"b": BOTH})).unassigned() == []


def test_jobs_do_not_wait_for_a_worker_while_the_first_workers_agree_who_takes_a_partition() -> None:
    first, later = (snapshot(at_ms, EMPTY, state="PreparingRebalance") for at_ms in (5, 5 + REBALANCE_MS))
    held = after(snapshot(1, EMPTY, state="Empty"))
    assert held.idle(ZERO) is not None
    assert after(first).idle(ZERO) is None
    assert held.saw(first).idle(ZERO) is None
    assert held.saw(first).saw(later).idle(ZERO) is not None


def test_a_long_rebalance_holds_nothing_since_it_began() -> None:
    def moving(at_ms: int) -> Snapshot:
        return snapshot(at_ms, {"a": frozenset()}, state="PreparingRebalance")

    held = after(snapshot(1, ALL), moving(5), moving(5 + REBALANCE_MS))
    assert [each.unassigned_since_ms for each in held.unassigned()] == [5, 5]
    assert held.saw(snapshot(5 + REBALANCE_MS + 1, ALL)).unassigned() == []


def test_lag_ages_while_a_reader_stands_still() -> None:
    held = after(snapshot(1_000, ALL), snapshot(4_000, ALL, committed=10, end=15))
    assert (of(held).lag, of(held).still_ms(9_000)) == (5, 8_000)
    moved = held.saw(snapshot(7_000, ALL, committed=12, end=20))
    assert (of(moved).lag, of(moved).still_ms(9_000)) == (8, 2_000)
    assert of(moved.saw(snapshot(8_000, ALL, committed=20, end=20))).still_ms(99_000) == 0


def test_without_a_broker_no_partition_is_said_to_be_without_a_worker() -> None:
    held = after(snapshot(1, EMPTY, state="Empty")).missed("no answer", 5).missed("no answer", 9)
    assert (held.unassigned(), held.idle(ZERO), held.away, held.away_since_ms) == ([], None, "no answer", 5)
    assert held.saw(snapshot(12, ALL)).away is None


def test_groups_of_others_and_topics_that_no_job_needs_do_not_count() -> None:
    group = GroupSeen("theirs", "Stable", (), {})
    assert after(Snapshot(1, (group,), {ZERO: 1, ("clock", 0): 5}, 1)).held == {}


def test_a_process_is_named_by_its_client_id() -> None:
    name = own_name("worker")
    assert name_from(str(name)) == name
    assert name_from("worker/0.1.0/node-1/4711") == ProcessName("worker", "0.1.0", "node-1", 4711)
    assert name_from("faust-0.11.3") is None
    assert name_from("worker/0.1.0/no\nde/1") is None


def test_the_marker_of_a_fence_is_no_lag() -> None:
    group = GroupSeen("readmodel", "Stable", (), {("results", 0): 5})
    assert after(Snapshot(1, (group,), {("results", 0): 6}, 1)).held["readmodel", ("results", 0)].lag == 0
    assert after(Snapshot(1, (group,), {("results", 0): 8}, 1)).held["readmodel", ("results", 0)].lag == 3


def test_unread_records_in_the_oldest_part_of_a_log_may_soon_be_deleted() -> None:
    def near(start: int, committed: int, end: int = 1_000) -> bool:
        group = GroupSeen("worker", "Stable", (), {ZERO: committed})
        return of(after(Snapshot(1, (group,), {ZERO: end}, 1, {ZERO: start}))).near_end_of_retention

    assert near(500, 510)
    assert near(500, 400)
    assert not near(500, 600)
    assert not near(500, 1_000)
    assert not near(0, 0), "retention has deleted nothing yet"


def test_records_behind_an_open_transaction_are_blocked_since_the_end_stands_still() -> None:
    def seen(at_ms: int, end: int, written: int) -> Snapshot:
        group = GroupSeen("worker", "Stable", (Member("a", "10.0.0.1", frozenset({REQUESTS})),), {REQUESTS: end})
        return Snapshot(at_ms, (group,), {REQUESTS: end}, 1, {}, {REQUESTS: written})

    def told(*looks: Snapshot) -> tuple[int, int, int]:
        found = after(*looks).held["worker", REQUESTS]
        return found.lag, found.blocked, found.blocked_ms(100)

    assert told(seen(10, 5, 5)) == (0, 0, 0)
    assert told(seen(10, 5, 6), seen(40, 5, 9)) == (0, 4, 90), "the same transaction"
    assert told(seen(10, 5, 6), seen(40, 7, 9)) == (0, 2, 60), "another one"
    assert told(seen(10, 5, 6), seen(40, 5, 5), seen(70, 5, 8)) == (0, 3, 30)
