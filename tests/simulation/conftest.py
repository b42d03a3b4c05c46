"""Runs of the simulation in the test's own process."""

from collections.abc import Iterator

import pytest
import structlog

from tests.simulation.run import quiet


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    """The simulation turns logging off for its process; here others come after it."""
    before = structlog.get_config()
    quiet()
    yield
    structlog.configure(**before)
