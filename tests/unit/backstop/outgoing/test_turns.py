"""The order of deliveries: due times, slots, and fairness between endpoints."""

from collections import Counter

from backstop.outgoing.turns import RUNNING_AGAIN_MS, DeliveryTurns

A, B, C = "endpoint a", "endpoint b", "endpoint c"


def taken(turns: DeliveryTurns, now_ms: int) -> list[str]:
    found = []
    while (delivery_id := turns.take(now_ms)) is not None:
        found.append(delivery_id)
    return found


def test_nothing_is_taken_before_its_time_and_then_the_earliest_first() -> None:
    turns = DeliveryTurns(8, 8)
    turns.put("late", A, 30, A)
    turns.put("early", A, 10, A)
    assert taken(turns, 9) == []
    assert turns.next_due_ms() == 10
    assert taken(turns, 10) == ["early"]
    assert taken(turns, 40) == ["late"]
    assert turns.next_due_ms() is None


def test_an_endpoint_has_only_its_share_of_the_slots_so_that_the_others_have_theirs() -> None:
    turns = DeliveryTurns(10, 2)
    for number in range(100):
        turns.put(f"a{number}", A, 0, A)
    turns.put("b0", B, 1, B)
    turns.put("c0", C, 1, C)
    assert Counter(name[0] for name in taken(turns, 1)) == {"a": 2, "b": 1, "c": 1}


def test_endpoints_take_turns() -> None:
    turns = DeliveryTurns(8, 6)
    for number in range(10):
        turns.put(f"a{number}", A, 0, A)
        turns.put(f"b{number}", B, 1, B)
    assert taken(turns, 1) == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_never_more_than_all_slots_are_taken() -> None:
    turns = DeliveryTurns(3, 2)
    for endpoint in (A, B, C):
        for number in range(3):
            turns.put(f"{endpoint}{number}", endpoint, 0, endpoint)
    first = taken(turns, 0)
    assert len(first) == turns.running == 3
    turns.over(first[0], succeeded=True)
    assert len(taken(turns, 0)) == 1


def test_after_a_failure_an_endpoint_gets_one_at_a_time_until_one_succeeds() -> None:
    turns = DeliveryTurns(8, 4)
    for number in range(20):
        turns.put(f"a{number}", A, 0, A)
    under_way = taken(turns, 0)
    assert len(under_way) == 4
    for delivery_id in under_way:
        turns.over(delivery_id, succeeded=False)
    (one,) = taken(turns, 0)
    turns.over(one, succeeded=None)  # given up without an attempt: that says nothing
    (one,) = taken(turns, 0)
    turns.over(one, succeeded=True)
    assert len(taken(turns, 0)) == 4


def test_an_endpoint_that_asked_for_time_is_left_alone_and_the_others_are_not() -> None:
    turns = DeliveryTurns(8, 4)
    turns.put("a0", A, 0, A)
    assert taken(turns, 0) == ["a0"]
    turns.over("a0", succeeded=False, hold_until_ms=100)
    turns.put("a1", A, 1, A)
    turns.put("b0", B, 1, B)
    assert taken(turns, 99) == ["b0"]
    assert taken(turns, 100) == ["a1"]


def test_what_is_put_again_has_only_its_new_time() -> None:
    turns = DeliveryTurns(8, 4)
    turns.put("a0", A, 0, A)
    turns.put("a0", A, 50, A)
    assert turns.waiting_of(A) == 1
    assert taken(turns, 49) == []
    assert taken(turns, 50) == ["a0"]


def test_what_was_due_already_and_is_put_off_is_not_taken() -> None:
    turns = DeliveryTurns(1, 1)
    turns.put("a0", A, 0, A)
    turns.put("a1", A, 0, A)
    assert taken(turns, 0) == ["a0"]
    turns.put("a1", A, 500, A)
    turns.over("a0", succeeded=True)
    assert taken(turns, 1) == []
    assert taken(turns, 500) == ["a1"]


def test_what_was_dropped_is_never_taken() -> None:
    turns = DeliveryTurns(8, 4)
    turns.put("a0", A, 0, A)
    turns.put("a1", A, 10, A)
    turns.drop("a0")
    turns.drop("a1")
    assert (taken(turns, 100), turns.waiting_of(A), turns.next_due_ms()) == ([], 0, None)


def test_a_delivery_is_never_under_way_twice() -> None:
    turns = DeliveryTurns(8, 4)
    turns.put("a0", A, 0, A)
    assert taken(turns, 0) == ["a0"]
    turns.put("a0", A, 0, A)  # it was asked for anew while it is being sent
    assert taken(turns, 0) == []
    turns.over("a0", succeeded=True)
    assert taken(turns, RUNNING_AGAIN_MS) == ["a0"]


def test_one_tenant_with_many_slow_endpoints_leaves_slots_for_the_others() -> None:
    turns = DeliveryTurns(64, 8)
    for endpoint in range(8):
        for number in range(20):
            turns.put(f"slow {endpoint} {number}", f"slow {endpoint}", 0, "greedy")
    assert len(taken(turns, 0)) == 48
    for number in range(4):
        turns.put(f"honest {number}", C, 1, "honest")
    assert len(taken(turns, 1)) == 4
