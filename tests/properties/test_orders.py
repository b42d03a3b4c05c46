"""A webhook, its repeat, the claim, an observation and a timer, in every order: the end is the same."""

from itertools import permutations

import pytest

from schemas.base import Message
from streams.fold import job, response
from tests.properties.coverage import Coverage
from tests.properties.world import World
from tests.support import builders as build

FACTS = ("webhook", "repeat", "claim", "observation", "timer")
ORDERS = tuple(permutations(FACTS))


def accepted_and_ended() -> tuple[World, dict[str, Message]]:
    """A job whose attempt was accepted and has completed at the provider; and the five facts of its response."""
    world = World(Coverage())
    world.submit("job_a")
    world.deliver(0, copy=False)
    world.deliver(0, copy=False, create="accept")
    world.deliver(0, copy=False)
    (claim,) = world.in_flight
    world.in_flight.clear()
    (made,) = world.provider.values()
    made.become("completed")
    webhook = build.webhook(world.now_ms, "wh", made.response_id)
    seen = build.observed(
        world.now_ms, "completed", made.response_id, job_id="job_a", attempt=1, tenant="acme",
        response=build.REQUEST, raw_status="completed",
    )  # fmt: skip
    timer = build.response_timer(world.now_ms + 20_000, response_id=made.response_id)
    facts = {"webhook": webhook, "repeat": webhook, "claim": claim, "observation": seen, "timer": timer}
    return world, facts


def test_there_are_120_orders() -> None:
    assert len(ORDERS) == 120


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_every_order_of_five_facts_ends_the_job_as_completed_once(order: tuple[str, ...]) -> None:
    world, facts = accepted_and_ended()
    for name in order:
        world.append(facts[name])
    world.drain()
    (key,) = world.provider
    ended, finished = world.books["responses", key].state, world.books["jobs", "job_a"].state
    assert isinstance(ended, response.Ended)
    assert isinstance(finished, job.Finished)
    assert (ended.status, finished.outcome, len(world.results["job_a"])) == ("completed", "completed", 1)
    assert world.accepts["job_a"] == 1
    for log, book_key in world.books:
        world.refold(log, book_key)


@pytest.mark.parametrize(
    "lost", [("webhook", "repeat"), ("observation",), ("timer",), ("webhook", "repeat", "observation")]
)
def test_without_some_of_them_the_end_is_found_all_the_same(lost: tuple[str, ...]) -> None:
    world, facts = accepted_and_ended()
    for name in FACTS:
        if name not in lost:
            world.append(facts[name])
    world.drain()
    assert world.results["job_a"][0].outcome == "completed"
