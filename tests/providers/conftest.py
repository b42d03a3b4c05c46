"""Servers that are not ours need packages that are not ours: `make test-providers` makes their venv, and says where it is.

Without it nothing here is collected, as these packages are no part of requirements.lock.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backstop.dev.ports import Ports

VENV = os.environ.get("BACKSTOP_TEST_PROVIDERS", "")

collect_ignore_glob = [] if VENV else ["test_*.py"]


@pytest.fixture(scope="session")
def venv() -> Path:
    return Path(VENV).absolute()


@pytest.fixture
def ports() -> Iterator[Ports]:
    drawn = Ports()
    yield drawn
    drawn.release()
