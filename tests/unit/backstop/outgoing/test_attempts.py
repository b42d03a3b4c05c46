"""The records that attempts write: each outcome once, with its consequences, in order."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from backstop.outgoing.attempts import DeliveryAttempts, SignedPosts
from backstop.outgoing.endpoints import EndpointBook
from backstop.outgoing.fold import Pending
from backstop.outgoing.metrics import OutgoingMetrics
from backstop.outgoing.policy import Answered, Outcome, RetryPolicy
from backstop.outgoing.secrets import SecretKeys
from backstop.outgoing.turns import DeliveryTurns
from backstop.runtime.kafka.reporting import Reporting
from schemas.base import Message
from schemas.dead_letters import DeadLetter
from schemas.deliveries import DeliveryDead, DeliveryDone, DeliveryFailed
from schemas.webhook_endpoints import EndpointMessage, EndpointRemoved, EndpointSwitched, SecretRef
from tests.support.memory_publisher import MemoryPublisher
from tests.support.waiting import eventually
from tests.unit.backstop.outgoing.facts import DELIVERY, DELIVERY_ID, ENDPOINT_ID, NOW_MS, numbered, pending, saved

KEYS = SecretKeys((SecretStr("k" * 32),))
OK = Answered(200)
REF = SecretRef(key_id=KEYS.current_id, number=2)
OLD = SecretRef(key_id=KEYS.current_id, number=1, until_ms=NOW_MS + 1)
LAPSED = SecretRef(key_id=KEYS.current_id, number=1, until_ms=NOW_MS)


@dataclass
class Endpoints:
    """Endpoints known at once, and endpoints known only after `catch_up`."""

    book: EndpointBook
    later: tuple[EndpointMessage, ...] = ()

    async def catch_up(self) -> None:
        for fact in self.later:
            self.book.take(fact)


@dataclass
class Post:
    """A sender with a preset outcome."""

    outcome: Outcome
    sent: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        self.sent.append((url, headers, body))
        return self.outcome


@dataclass
class Scene:
    publisher: MemoryPublisher
    post: Post
    turns: DeliveryTurns

    @property
    def written(self) -> list[Message]:
        return self.publisher.landed


def attempted(
    *facts: EndpointMessage, outcome: Outcome = OK, waiting_max: int = 10, count: int = 1, slots: int = 8,
    later: tuple[EndpointMessage, ...] = (), of: Pending | None = None,
) -> Scene:  # fmt: skip
    """Perform the attempts of `count` due deliveries."""
    scene = Scene(MemoryPublisher(), Post(outcome), DeliveryTurns(8, slots))
    book = EndpointBook()
    for fact in facts:
        book.take(fact)
    open_ones = {numbered(number): of or pending() for number in range(count)}
    sender: Any = scene.post
    attempts = DeliveryAttempts(
        turns=scene.turns, find=open_ones.get, posts=SignedPosts(Endpoints(book, later), KEYS, sender),
        reporting=Reporting(scene.publisher, OutgoingMetrics(CollectorRegistry()), lambda: NOW_MS),
        policy=RetryPolicy((1_000,)), waiting_max=waiting_max,
    )  # fmt: skip
    for delivery_id in open_ones:
        scene.turns.put(delivery_id, ENDPOINT_ID, NOW_MS, "default")

    async def story() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(attempts.run(stop, 1.0))

        def over() -> bool:
            told = sum(isinstance(one, DeliveryDone | DeliveryFailed | DeliveryDead) for one in scene.written)
            return told >= count and scene.turns.running == 0

        await eventually(over, 5, "the attempts to be over")
        stop.set()
        await running

    asyncio.run(story())
    return scene


def test_a_delivery_is_posted_to_its_url_and_written_down() -> None:
    scene = attempted(saved(secrets=(REF,)))
    ((url, headers, _),) = scene.post.sent
    assert (url, headers["webhook-id"], headers["webhook-timestamp"]) == (
        "https://hooks.example.com/x", DELIVERY_ID, str(NOW_MS // 1000),
    )  # fmt: skip
    (done,) = scene.written
    assert isinstance(done, DeliveryDone)
    assert (done.delivery_id, done.delivery, done.attempt) == (DELIVERY_ID, DELIVERY, 1)


def test_an_old_secret_signs_until_its_time_has_come() -> None:
    ((_, both, _),) = attempted(saved(secrets=(REF, OLD))).post.sent
    ((_, one, _),) = attempted(saved(secrets=(REF, LAPSED))).post.sent
    assert both["webhook-signature"].split()[0] == one["webhook-signature"]
    assert len(both["webhook-signature"].split()) == 2


def test_a_last_failure_is_a_dead_letter_and_then_the_end() -> None:
    letter, dead = attempted(saved(secrets=(REF,)), outcome=Answered(500), of=pending(1)).written
    assert isinstance(letter, DeadLetter)
    assert isinstance(dead, DeliveryDead)
    assert (letter.component, letter.reason, letter.key) == ("outgoing", "undeliverable", DELIVERY_ID)
    assert f"backstop webhooks resend {ENDPOINT_ID} --job resp_1" in letter.detail
    assert "status 500" in letter.detail


def test_410_disables_the_endpoint_before_the_delivery_ends() -> None:
    letter, switched, dead = attempted(saved(secrets=(REF,)), outcome=Answered(410)).written
    assert isinstance(letter, DeadLetter)
    assert isinstance(switched, EndpointSwitched)
    assert (switched.endpoint_id, switched.tenant, switched.enabled) == (ENDPOINT_ID, "acme", False)
    assert isinstance(dead, DeliveryDead)
    assert dead.dead_by == "gone"


def test_a_delivery_to_a_removed_or_disabled_endpoint_ends_without_an_attempt_and_a_dead_letter() -> None:
    removed = EndpointRemoved(id="r", at_ms=1, endpoint_id=ENDPOINT_ID, tenant="acme", removed_at_ms=1)
    disabled = EndpointSwitched(id="s", at_ms=1, endpoint_id=ENDPOINT_ID, tenant="acme", enabled=False)
    for fact, dead_by in ((removed, "removed"), (disabled, "disabled")):
        scene = attempted(saved(secrets=(REF,)), fact)
        (dead,) = scene.written
        assert isinstance(dead, DeliveryDead)
        assert (dead.dead_by, dead.attempt, scene.post.sent) == (dead_by, 0, [])


def test_an_endpoint_that_is_not_known_yet_is_polled_up_before_anything_is_given_up() -> None:
    scene = attempted(later=(saved(secrets=(REF,)),))
    assert isinstance(scene.written[0], DeliveryDone)
    nowhere = attempted()
    assert isinstance(nowhere.written[0], DeliveryDead)


def test_beyond_the_backlog_the_oldest_are_given_up_and_said_to_be() -> None:
    scene = attempted(saved(secrets=(REF,)), waiting_max=2, count=4, slots=1)
    ends = [one for one in scene.written if isinstance(one, DeliveryDead)]
    assert [(one.dead_by, one.delivery_id) for one in ends] == [("backlog", numbered(0)), ("backlog", numbered(1))]
    assert len([one for one in scene.written if isinstance(one, DeadLetter)]) == 2
    assert len(scene.post.sent) == 2


def test_without_the_key_of_its_secret_nothing_is_sent_and_it_is_tried_again() -> None:
    scene = attempted(saved(secrets=(SecretRef(key_id="another", number=1), OLD)))
    (failed,) = scene.written
    assert isinstance(failed, DeliveryFailed)
    assert (failed.failed_by, scene.post.sent) == ("no_secret", [])


def test_a_test_event_that_fails_leaves_no_dead_letter() -> None:
    of_test = Pending(DELIVERY.model_copy(update={"test": True}), 5, 0, NOW_MS)
    (dead,) = attempted(saved(secrets=(REF,)), outcome=Answered(500), of=of_test).written
    assert isinstance(dead, DeliveryDead)
