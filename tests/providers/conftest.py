"""Foreign servers need foreign packages, in a venv of their own: `make test-providers` makes it and passes its path.

Without that venv pytest collects none of these tests, because requirements.lock does not contain the packages.
"""

import os
from pathlib import Path

import pytest

VENV = os.environ.get("BACKSTOP_TEST_PROVIDERS", "")

collect_ignore_glob = [] if VENV else ["test_*.py"]


@pytest.fixture(scope="session")
def venv() -> Path:
    return Path(VENV).absolute()
