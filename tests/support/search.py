"""How far a search for a counterexample goes: `make test-long` searches in full, and draws other examples each time."""

import os
from typing import Final

from hypothesis import settings

SEARCHING: Final = "BACKSTOP_TEST_SEARCH" in os.environ
"""In the short form the examples are the same each time: a change alone makes a test fail."""


def examples(full: int, short: int) -> settings:
    """For a property with costly examples: `short` of them in `make test`."""
    return settings(max_examples=full if SEARCHING else short, deadline=None)
