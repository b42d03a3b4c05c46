"""The endpoints that the facts describe, in whatever order the facts are read."""

from itertools import permutations

import pytest

from backstop.outgoing.endpoints import EndpointBook
from schemas.webhook_endpoints import EndpointMessage, EndpointRemoved, EndpointSwitched
from tests.unit.backstop.outgoing.facts import ENDPOINT_ID, OTHER_ENDPOINT_ID, saved


def switched(enabled: bool) -> EndpointSwitched:
    return EndpointSwitched(
        id=f"switch/{enabled}", at_ms=2, endpoint_id=ENDPOINT_ID, tenant="acme", enabled=enabled, reason="gone"
    )


REMOVED = EndpointRemoved(id="removed", at_ms=3, endpoint_id=ENDPOINT_ID, tenant="acme", removed_at_ms=3)


def book(*facts: EndpointMessage) -> EndpointBook:
    made = EndpointBook()
    for fact in facts:
        made.take(fact)
    return made


def test_an_endpoint_hears_of_what_it_asked_for_and_of_what_ended_after_it_was_registered() -> None:
    one = book(saved(created_at_ms=100, event_types=("response.failed",)))
    assert [found.id for found in one.wanting("acme", "response.failed", 100)] == [ENDPOINT_ID]
    assert one.wanting("acme", "response.failed", 99) == []
    assert one.wanting("acme", "response.completed", 100) == []
    assert one.wanting("globex", "response.failed", 100) == []


@pytest.mark.parametrize("order", list(permutations([saved(), switched(False), REMOVED])))
def test_a_removed_endpoint_stays_removed_in_any_order_of_its_facts(order: tuple[EndpointMessage, ...]) -> None:
    one = book(*order)
    assert one.find(ENDPOINT_ID, "acme") is None
    assert one.registered() == []
    assert not one.any_live


@pytest.mark.parametrize("order", [(saved(), switched(False)), (switched(False), saved())])
def test_a_disabled_one_is_there_and_hears_nothing(order: tuple[EndpointMessage, ...]) -> None:
    one = book(*order)
    found = one.find(ENDPOINT_ID, "acme")
    assert found is not None
    assert (found.enabled, found.disabled_because) == (False, "gone")
    assert one.wanting("acme", "response.completed", 5) == []
    one.take(switched(True))
    assert one.wanting("acme", "response.completed", 5) != []


def test_the_last_registration_of_an_endpoint_holds() -> None:
    one = book(saved(url="https://a.example/"), saved(url="https://b.example/"))
    (found,) = one.registered("acme")
    assert found.saved is not None
    assert found.saved.url == "https://b.example/"


def test_tenants_are_apart_and_the_oldest_comes_first() -> None:
    one = book(
        saved(created_at_ms=9), saved(OTHER_ENDPOINT_ID, created_at_ms=1), saved("we_" + "3" * 32, tenant="globex")
    )
    assert [found.id for found in one.registered("acme")] == [OTHER_ENDPOINT_ID, ENDPOINT_ID]
    assert len(one.registered()) == 3
    assert one.find(ENDPOINT_ID, "globex") is None
    assert one.find("we_" + "9" * 32, "acme") is None
    assert one.registered("unknown") == []


def test_a_switch_of_an_unregistered_endpoint_makes_no_endpoint() -> None:
    assert book(switched(True)).find(ENDPOINT_ID, "acme") is None
