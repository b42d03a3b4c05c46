"""The verdict on each outcome of an attempt."""

from email.utils import formatdate

import pytest

from backstop.outgoing.policy import (
    Answered,
    AttemptVerdict,
    Outcome,
    RetryPolicy,
    Unanswered,
    judge,
    retry_after_ms,
    share,
)
from backstop.outgoing.settings import RETRY_WAITS_S, OutgoingSettings
from schemas.deliveries import DeliveryDead, DeliveryDone, DeliveryFailed
from tests.unit.backstop.outgoing.facts import DELIVERY, DELIVERY_ID, NOW_MS, pending

POLICY = RetryPolicy((5_000, 300_000), jitter=0.0)


def judged(outcome: Outcome, attempts: int = 0, policy: RetryPolicy = POLICY) -> AttemptVerdict:
    return judge(pending(attempts), DELIVERY_ID, outcome, policy, NOW_MS)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_is_a_delivery(status: int) -> None:
    fact = judged(Answered(status), attempts=1).fact
    assert isinstance(fact, DeliveryDone)
    assert (fact.attempt, fact.status, fact.delivery, fact.delivery_id) == (2, status, DELIVERY, DELIVERY_ID)


@pytest.mark.parametrize(
    ("outcome", "failed_by"),
    [
        (Answered(100), "status"), (Answered(301), "redirect"), (Answered(307), "redirect"), (Answered(404), "status"),
        (Answered(500), "status"), (Unanswered("timeout"), "timeout"),
        (Unanswered("address_refused"), "address_refused"),
    ],
)  # fmt: skip
def test_all_else_is_a_failure_with_a_next_time(outcome: Outcome, failed_by: str) -> None:
    fact = judged(outcome).fact
    assert isinstance(fact, DeliveryFailed)
    assert (fact.attempt, fact.failed_by, fact.next_at_ms) == (1, failed_by, NOW_MS + 5_000)


def test_after_the_last_attempt_it_is_dead() -> None:
    fact = judged(Answered(500), attempts=2).fact
    assert isinstance(fact, DeliveryDead)
    assert (fact.attempt, fact.dead_by, fact.status) == (3, "gave_up", 500)


def test_410_ends_it_at_once_and_says_that_the_endpoint_is_gone() -> None:
    verdict = judged(Answered(410))
    assert isinstance(verdict.fact, DeliveryDead)
    assert (verdict.gone, verdict.fact.dead_by) == (True, "gone")


def test_a_test_event_is_tried_once() -> None:
    of_test = pending().__class__(DELIVERY.model_copy(update={"test": True}), 5, 0, NOW_MS)
    assert isinstance(judge(of_test, DELIVERY_ID, Answered(500), POLICY, NOW_MS).fact, DeliveryDead)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_puts_off_the_next_attempt_and_the_endpoint(status: int) -> None:
    verdict = judged(Answered(status, "60"))
    assert isinstance(verdict.fact, DeliveryFailed)
    assert verdict.fact.next_at_ms == verdict.hold_until_ms == NOW_MS + 60_000


def test_retry_after_never_shortens_a_wait_and_has_a_bound() -> None:
    soon = judged(Answered(503, "1"), attempts=1).fact
    assert isinstance(soon, DeliveryFailed)
    assert soon.next_at_ms == NOW_MS + 300_000
    never = judged(Answered(429, "999999999")).fact
    assert isinstance(never, DeliveryFailed)
    assert never.next_at_ms == NOW_MS + POLICY.retry_after_ms_max


def test_retry_after_of_another_status_is_not_heard() -> None:
    assert judged(Answered(500, "60")).hold_until_ms == 0


@pytest.mark.parametrize(
    ("header", "wait_ms"),
    [
        (None, 0), ("", 0), ("5", 5_000), ("-5", 0), ("1.5", 0), ("soon", 0), ("٥", 0), ("9" * 65, 0),
        (formatdate(NOW_MS / 1000 + 30, usegmt=True), 30_000), (formatdate(NOW_MS / 1000 - 30, usegmt=True), 0),
        ("Mon, 99 Foo 9999 99:99:99 GMT", 0),
    ],
)  # fmt: skip
def test_retry_after_is_read_in_each_form_and_never_raises(header: str | None, wait_ms: int) -> None:
    assert retry_after_ms(header, NOW_MS) == wait_ms


def test_jitter_is_derived_and_stays_within_its_share() -> None:
    policy = RetryPolicy((100_000,), jitter=0.1)
    waits = set()
    for number in range(50):
        fact = judge(pending(), f"whd_{number:032x}", Answered(500), policy, NOW_MS).fact
        assert isinstance(fact, DeliveryFailed)
        assert NOW_MS + 100_000 <= fact.next_at_ms <= NOW_MS + 110_000
        waits.add(fact.next_at_ms)
    assert len(waits) > 40
    assert judge(pending(), DELIVERY_ID, Answered(500), policy, NOW_MS) == judge(
        pending(), DELIVERY_ID, Answered(500), policy, NOW_MS
    )
    assert share("a") == share("a") != share("b")


def test_the_schedule_is_that_of_standard_webhooks() -> None:
    policy = OutgoingSettings().retry_policy()
    assert policy.waits_ms == tuple(wait * 1000 for wait in RETRY_WAITS_S)
    assert policy.attempts_max == 10
    assert OutgoingSettings(outgoing_retry_waits_s="").retry_policy().attempts_max == 1
    assert OutgoingSettings(outgoing_retry_waits_s="0,0.5, 2").retry_policy().waits_ms == (0, 500, 2_000)


@pytest.mark.parametrize("waits", ["-1", "700000", ",".join(["604800"] * 4), ",".join(["0"] * 51)])
def test_a_schedule_that_cannot_be_kept_is_refused(waits: str) -> None:
    with pytest.raises(ValueError, match="waits"):
        OutgoingSettings(outgoing_retry_waits_s=waits)
