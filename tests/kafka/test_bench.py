"""The benchmark's door runs, and what it prints is about what happened. No time is judged here."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from bench.weather import big_burst

ROOT = Path(__file__).parents[2]
JOBS = 40


def test_it_tells_its_use() -> None:
    command = [sys.executable, "-m", "bench", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--repeats" in done.stdout
    assert "big_burst" in done.stdout


@pytest.mark.long
@pytest.mark.timeout(180)
def test_a_short_burst_gives_figures_of_every_job() -> None:
    figures = asyncio.run(big_burst(JOBS))
    assert (figures["jobs"], figures["repeats"]) == (JOBS, 0)
    assert figures["jobs_per_s"] > 0
    assert figures["worker_mib_at_most"] >= figures["worker_mib_before"] // 2
