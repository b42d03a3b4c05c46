"""Fixtures for projects that call OpenAI: `pytest_plugins = ["backstop.simulator.pytest_plugin"]` in conftest.py.

    def test_a_lost_answer_is_not_paid_twice(openai_simulator):
        openai_simulator.aim("create_accept_close")
        my_code(OpenAI(base_url=openai_simulator.base_url, api_key=openai_simulator.api_key))
        assert len(openai_simulator.ledger("creates")) == 1

Options of pytest: `--openai-simulator-time-scale` (60) and `--openai-simulator-seed` (1).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backstop.simulator.running import RunningSimulator, running


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup("openai simulator")
    group.addoption(
        "--openai-simulator-time-scale", type=float, default=60.0, help="simulated seconds per real second (60)"
    )
    group.addoption("--openai-simulator-seed", type=int, default=1, help="the same seed gives the same faults (1)")


@pytest.fixture(scope="session")
def openai_simulator_process(pytestconfig: pytest.Config) -> Iterator[RunningSimulator]:
    """The process, started once a session (once for each worker of pytest-xdist)."""
    time_scale = pytestconfig.getoption("--openai-simulator-time-scale")
    seed = pytestconfig.getoption("--openai-simulator-seed")
    with running(time_scale=time_scale, seed=seed) as simulator:
        yield simulator


@pytest.fixture
def openai_simulator(openai_simulator_process: RunningSimulator) -> RunningSimulator:
    """A simulator without faults, whose ledgers begin with this test."""
    openai_simulator_process.reset()
    return openai_simulator_process
