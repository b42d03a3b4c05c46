"""Shares of a bounded capacity: an owner below its share never waits, and evictions never take from such an owner."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backstop.runtime import shares as module
from backstop.runtime.shares import Evict, Owner, Shares

CAPACITY = 24
TENANTS = ("a", "b", "c")
KEYS = ("1", "2")
owners = st.tuples(st.sampled_from(TENANTS), st.sampled_from(KEYS))
amounts = st.integers(1, 8)


class TakenBack(RuleBasedStateMachine):
    """Streams: an owner within its share is granted after the evictions that `ask` demands, with no release needed."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = Shares(CAPACITY)
        self.held: dict[Owner, int] = {}

    def of(self, tenant: str) -> int:
        return sum(amount for owner, amount in self.held.items() if owner[0] == tenant)

    @rule(owner=owners, amount=amounts)
    def ask(self, owner: Owner, amount: int) -> None:
        tenants = {name for name in TENANTS if self.of(name)} | {owner[0]}
        below = self.of(owner[0]) + amount <= CAPACITY // len(tenants)
        answer = self.shares.ask(owner, amount)
        while isinstance(answer, Evict):
            victim = answer.owner
            # Above its share, or of the asker's own tenant and holding more than the asker's key.
            assert (victim[0] != owner[0] and self.of(victim[0]) * len(tenants) > CAPACITY) or (
                victim[0] == owner[0] and self.held[victim] > self.held.get(owner, 0)
            )
            self.give(victim, 1)
            answer = self.shares.ask(owner, amount)
        assert answer == "granted" or not below, "an owner below its share is never refused"
        if answer == "granted":
            self.held[owner] = self.held.get(owner, 0) + amount

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(sorted(owner for owner, amount in self.held.items() if amount)))
        self.give(owner, data.draw(st.integers(1, self.held[owner])))

    def give(self, owner: Owner, amount: int) -> None:
        self.shares.give_back(owner, amount)
        self.held[owner] -= amount

    @invariant()
    def counts_agree(self) -> None:
        assert self.shares.free == CAPACITY - sum(self.held.values()) >= 0
        assert all(self.shares.held(owner) == amount for owner, amount in self.held.items())


TestTakenBack = TakenBack.TestCase


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 5)), max_size=200), st.integers(1, 4))
def test_an_owner_that_holds_nothing_gets_a_place_while_any_is_free(asked: list[tuple[str, int]], greed: int) -> None:
    shares = Shares(CAPACITY, greed)
    held: dict[str, int] = {}
    for name, given_back in asked:
        back = min(given_back, held.get(name, 0))
        shares.give_back((name,), back)
        held[name] = held.get(name, 0) - back
        free = shares.free
        granted = shares.ask_sparing((name,))
        assert granted or held[name] or not free
        if granted:
            held[name] += 1
            assert held[name] == 1 or held[name] <= greed * shares.free, "an owner leaves a part of what it holds free"
        assert shares.free == CAPACITY - sum(held.values()) >= 0


def test_an_owner_that_takes_all_it_can_leaves_a_part_for_the_next() -> None:
    shares, taken = Shares(1_200, greed=3), []
    for name in "abcd":
        count = 0
        while shares.ask_sparing((name,)):
            count += 1
        taken.append(count)
    assert taken == [900, 225, 56, 14]


def test_owners_that_hold_nothing_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_MAX", 10)
    shares = Shares(100)
    assert shares.ask(("keeps", "k")) == "granted"
    for number in range(1_000):
        assert shares.ask_sparing((f"t{number}", "k"))
        shares.give_back((f"t{number}", "k"))
    assert len(shares._paths) <= 10
    assert (shares.held(("keeps", "k")), shares.held(("keeps",)), shares.free) == (1, 1, 99)


def test_inside_a_tenant_a_key_makes_room_for_another_and_not_for_another_tenants() -> None:
    shares = Shares(4)
    for owner in (("a", "1"),) * 2 + (("b", "1"),) * 2:
        assert shares.ask(owner) == "granted"
    assert shares.ask(("a", "1")) == "refused"
    assert shares.ask(("a", "2")) == Evict(("a", "1"))
    assert shares.ask(("c", "1")) in (Evict(("a", "1")), Evict(("b", "1")))
