"""The fixture as another project uses it: a folder of its own, the official SDK, and pytest with one line of set-up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backstop.cli.main import app
from backstop.simulator.running import SimulatorError, running

CONFTEST = 'pytest_plugins = ["backstop.simulator.pytest_plugin"]\n'
TESTS = """
import time

from openai import OpenAI

from backstop.simulator.running import SimulatorError

import pytest


def finished(simulator):
    client = OpenAI(base_url=simulator.base_url, api_key=simulator.api_key, max_retries=1)
    response = client.responses.create(model="gpt-5.2", input="Say hello.", background=True)
    until_s = time.monotonic() + 60
    while response.status in ("queued", "in_progress") and time.monotonic() < until_s:
        response = client.responses.retrieve(response.id)
    return response


def test_a_lost_answer_is_paid_twice_by_the_plain_sdk(openai_simulator):
    openai_simulator.aim("create_accept_close")
    assert finished(openai_simulator).status == "completed"
    assert len(openai_simulator.ledger("creates")) == 2


def test_the_next_test_has_neither_its_fault_nor_its_ledger(openai_simulator):
    openai_simulator.faults({"rates": {"run_failed": 1.0}})
    assert finished(openai_simulator).status == "failed"
    assert len(openai_simulator.ledger("creates")) == 1


def test_a_webhook_is_sent_where_the_test_wants_it(openai_simulator):
    openai_simulator.webhook("http://127.0.0.1:9/nothing-listens", "whsec_" + "A" * 32)
    response = finished(openai_simulator)
    assert response.status == "completed"
    until_s = time.monotonic() + 60
    while not openai_simulator.ledger("deliveries") and time.monotonic() < until_s:
        openai_simulator.control("GET", "stats")
    assert openai_simulator.ledger("deliveries")[0]["response"] == response.id


def test_a_fault_that_does_not_exist_is_refused_with_its_name(openai_simulator):
    with pytest.raises(SimulatorError, match="create_explodes"):
        openai_simulator.aim("create_explodes")
"""


def test_another_projects_tests_run_with_one_line_of_setup(tmp_path: Path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_mine.py").write_text(TESTS)
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:schemathesis", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, env=theirs, capture_output=True, text=True, timeout=110, check=False)
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_a_profile_that_is_wrong_is_told_in_the_simulators_words():
    with pytest.raises(SimulatorError, match=r"profile 'nosuch': neither a preset .* nor a file"), running("nosuch"):
        pytest.fail("it started")


def test_nothing_of_it_is_left_when_the_block_is_left():
    with running({"rates": {"webhook_lost": 1.0}}) as simulator:
        assert simulator.control("GET", "faults")["profile"]["rates"] == {"webhook_lost": 1.0}
    with pytest.raises(ConnectionRefusedError):
        simulator.control("GET", "health")


def test_the_command_passes_its_flags_on_and_refuses_a_wrong_one_with_2():
    done = CliRunner().invoke(app, ["simulator", "--profile", "nosuch"])
    assert (done.exit_code, done.stderr.split(":")[0]) == (2, "backstop simulator")
