"""The benchmark runs, and what it prints is about what happened. No time is judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_it_tells_its_use() -> None:
    command = [sys.executable, "bench/system.py", "burst", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--jobs" in done.stdout


@pytest.mark.long
@pytest.mark.timeout(180)
def test_a_short_burst_gives_figures_of_every_job() -> None:
    done = subprocess.run(
        [sys.executable, "bench/system.py", "burst", "--jobs", "40"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["jobs"], figures["creates"], figures["repeats"]) == (40, 40, 0)
    assert figures["jobs_per_s"] > 0
    assert set(figures["cpu_ms_a_job"]) == {"serve", "projection", "worker", "simulator", "broker"}
