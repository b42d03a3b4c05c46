"""The measured share of ends without a webhook."""

import pytest

from streams.policy.webhook_loss import CLASSES_MAX, HOUR_SHARE_MAX, MISSED_MAX, SHARE_MIN, WebhookLoss

SECOND = 1_000
MODEL = "m"


def ends(loss: WebhookLoss, count: int, every_missed: int, at_ms: int = 0, of: str = MODEL) -> WebhookLoss:
    """So many ends, of which each `every_missed`-th is missed; 0: none."""
    for number in range(count):
        loss.judged(of, bool(every_missed) and number % every_missed == 0, at_ms)
    return loss


def test_it_begins_with_one_percent_and_learns_that_few_are_lost() -> None:
    assert WebhookLoss().share(None, 0) == pytest.approx(0.01)
    assert ends(WebhookLoss(), 5_000, 0).share(None, 0) == SHARE_MIN


def test_the_share_is_that_of_the_last_two_minutes() -> None:
    loss = ends(WebhookLoss(), 200, 4)
    assert loss.share(None, 0) == pytest.approx(0.25, abs=0.03)
    assert loss.share(None, 121 * SECOND + 10 * SECOND) == HOUR_SHARE_MAX
    assert loss.share(None, 2 * 3_600 * SECOND) == pytest.approx(0.01)


def test_webhooks_that_are_back_are_believed_within_two_minutes() -> None:
    loss = ends(WebhookLoss(), 1_000, 1)
    assert loss.share(None, 0) == 1.0
    ends(loss, 170, 0, 130 * SECOND)
    assert loss.share(None, 130 * SECOND) <= 0.01


def test_a_class_has_the_whole_as_its_prior() -> None:
    loss = ends(ends(WebhookLoss(), 1_000, 0), 20, 2, of="other")
    assert loss.share("never seen", 0) == loss.share(None, 0)
    assert loss.share("other", 0) > 10 * loss.share(MODEL, 0)


def test_five_misses_in_a_row_are_enough_where_few_responses_end() -> None:
    loss = WebhookLoss()
    for number in range(MISSED_MAX):
        assert loss.share(None, number * 600 * SECOND) < 0.2
        loss.judged(MODEL, True, number * 600 * SECOND)
    assert (loss.expected, loss.share(None, 3_600 * SECOND)) == (False, 1.0)
    loss.heard()
    assert loss.share(None, 3_600 * SECOND) <= HOUR_SHARE_MAX


def test_without_expected_webhooks_all_are_lost_until_one_is_heard() -> None:
    loss = WebhookLoss(expected=False)
    assert loss.share(None, 0) == 1.0
    loss.heard()
    assert loss.share(None, 0) < 0.05


def test_the_number_of_classes_is_bounded() -> None:
    loss = WebhookLoss()
    for number in range(3 * CLASSES_MAX):
        loss.judged(f"m{number}", False, number)
    assert len(loss._classes) <= CLASSES_MAX
