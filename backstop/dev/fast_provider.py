"""Settings for a provider that runs faster than the real one: what waits minutes there waits seconds here.

For the simulator only. Whoever sets one of these in the environment wins.
"""

from typing import Final

TIME_SCALE: Final = 10.0
"""A median run of 20 s takes 2 s."""

BRISK: Final[dict[str, str]] = {
    "BACKSTOP_FIRST_LOOK_MS": "4000",
    "BACKSTOP_LOOK_SPACING_MIN_MS": "1000",
    "BACKSTOP_LOOK_SPACING_MAX_MS": "8000",
    "BACKSTOP_LOOK_WORD_MS": "20000",
    "BACKSTOP_CREATE_TIMEOUT_MS": "5000",
    "BACKSTOP_LOOK_TIMEOUT_MS": "5000",
    "BACKSTOP_CLAIM_GRACE_MS": "3000",
    "BACKSTOP_DOOR_CREATE_TIMEOUT_MS": "5000",
    "BACKSTOP_DOOR_COMMAND_VALID_MS": "10000",
    "BACKSTOP_DOOR_ADOPTION_GRACE_MS": "5000",
    "BACKSTOP_DOOR_MISSING_GRACE_MS": "3000",
    "BACKSTOP_DOOR_BACKOFF_BASE_MS": "250",
    "BACKSTOP_DOOR_BACKOFF_MAX_MS": "4000",
}
