"""Settings for a provider that runs faster than the real one: minutes become seconds.

For the simulator only. A value in the environment overrides the one here.
"""

from typing import Final

TIME_SCALE: Final = 10.0
"""At this scale a median run of 20 s takes 2 s."""

BRISK: Final[dict[str, str]] = {
    "BACKSTOP_FIRST_POLL_MS": "4000",
    "BACKSTOP_POLL_SPACING_MIN_MS": "1000",
    "BACKSTOP_POLL_SPACING_MAX_MS": "8000",
    "BACKSTOP_POLL_REPORT_MS": "20000",
    "BACKSTOP_POLL_TIMEOUT_MS": "5000",
    "BACKSTOP_CLAIM_GRACE_MS": "3000",
    "BACKSTOP_SUBMISSION_CREATE_TIMEOUT_MS": "5000",
    "BACKSTOP_SUBMISSION_COMMAND_VALID_MS": "10000",
    "BACKSTOP_SUBMISSION_ADOPTION_GRACE_MS": "5000",
    "BACKSTOP_SUBMISSION_MISSING_GRACE_MS": "3000",
    "BACKSTOP_SUBMISSION_BACKOFF_BASE_MS": "250",
    "BACKSTOP_SUBMISSION_BACKOFF_MAX_MS": "4000",
}
