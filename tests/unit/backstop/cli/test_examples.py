"""The examples import nothing of Backstop. The example for the SDK runs against the simulator."""

import ast
import difflib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[4]
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
OURS = {"schemas", "streams", "receiver", "backstop"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_imports_nothing_of_ours(path: Path) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported, "it imports something"
    assert not imported & OURS


def test_the_official_sdk_runs_against_the_simulator_by_its_base_url_alone(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    simulator = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "backstop.simulator",
            "--port-file",
            str(port_file),
            "--api-key",
            "sk-example",
            "--time-scale",
            "100",
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        port = wait_until(lambda: port_file.exists() and port_file.read_text(), 20, "the simulator's port")
        done = subprocess.run(
            [sys.executable, "examples/openai_sdk_simulator.py"],
            cwd=ROOT,
            env={**environment, "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "sk-example"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        simulator.terminate()
        simulator.wait(10)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("completed: Echo: Say hello.")


def test_a_service_needs_about_ten_lines_to_go_on_with_backstop() -> None:
    before, after = [
        (ROOT / f"examples/services/fastapi_{name}.py").read_text().split('"""', 2)[2].splitlines()
        for name in ("before", "after")
    ]
    changed = [line for line in difflib.ndiff(before, after) if line[0] in "+-" and line[2:].strip()]
    assert len(changed) <= 11
