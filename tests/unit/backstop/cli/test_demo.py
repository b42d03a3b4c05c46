"""What the demo asks for fits what it shows: jobs have time to outlast what the simulator does to them."""

import pytest

from backstop.cli.demo import TIMEOUT_MS, stuck_after_ms
from backstop.dev.fast_provider import BRISK, TIME_SCALE
from streams.submission import SubmissionPolicy


@pytest.mark.parametrize(("time_scale", "expected"), [(TIME_SCALE, "12000"), (1.0, "120000"), (10_000.0, "1000")])
def test_a_stuck_response_is_given_up_at_the_providers_pace(time_scale: float, expected: str) -> None:
    assert stuck_after_ms(time_scale) == expected
    assert SubmissionPolicy(stuck_after_ms=int(expected)).stuck_after_ms == int(expected)


def test_a_job_of_the_demo_outlives_two_stuck_responses_and_the_longest_wait_for_a_limit() -> None:
    seen_late_ms = int(BRISK["BACKSTOP_POLL_SPACING_MAX_MS"])
    given_up_ms = int(stuck_after_ms(TIME_SCALE)) + seen_late_ms
    longest_wait_ms = 5 * int(BRISK["BACKSTOP_SUBMISSION_BACKOFF_MAX_MS"])
    assert 2 * given_up_ms + longest_wait_ms <= TIMEOUT_MS
