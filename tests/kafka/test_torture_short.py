"""`make torture` in its short form: the system in real processes, killed at each failpoint, frozen, cut off, judged."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backstop.cli.interrupts import INTERRUPTED
from backstop.dev.broker import LocalKafka
from tests.support.waiting import wait_until
from tests.torture.failpoint_deck import FAILPOINTS
from tests.torture.plan import Plan
from tests.torture.report import as_json
from tests.torture.run import run

ROOT = Path(__file__).parents[2]
WHOLE_SCHEDULE_MINUTES = 1.5
"""In less time a short run gets no further than the frozen worker, with failpoints beside it all the while."""


@pytest.mark.parametrize(
    ("jobs", "minutes"),
    [
        pytest.param(60, 0.3, marks=pytest.mark.slow, id="short"),
        pytest.param(400, 2.0, marks=pytest.mark.long, id="long"),
    ],
)
@pytest.mark.timeout(420)
def test_nothing_is_lost_or_done_twice_or_stuck_whatever_is_killed(
    jobs: int,
    minutes: float,
    local_kafka: LocalKafka,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """How many failpoints are met, and which hedges, is the machine's: told, and judged only in runs of ten minutes."""
    seed = int(os.environ.get("TORTURE_SEED", "1"))
    plan = Plan(
        folder=tmp_path, jobs=jobs, minutes=minutes, seed=seed, workers=2, timeout_ms=30_000, short=True, hedges=True
    )
    said: list[str] = []
    outcome = asyncio.run(run(plan, said.append, lambda _kill: None))
    report = asyncio.run(as_json(outcome, local_kafka, "make test"))
    (tmp_path / "report.json").write_text(json.dumps(report, indent=2))
    where = f"seed {seed}; logs, ledgers and topics: {tmp_path}\n" + "\n".join(said)
    assert report["violations"] == [], where
    assert report["jobs"]["acknowledged"] == plan.jobs_in_all
    hit = [name for name, kills in report["kills"]["by_failpoint"].items() if kills]
    record_property("failpoints never met", sorted(set(FAILPOINTS) - set(hit)))
    record_property("hedges", outcome.evidence.races.as_json())
    assert hit, where
    # Frozen from outside, or at a failpoint of its own: which of the two comes first is the machine's, too.
    assert sum(report["stops"]["at"].values()) >= 1, where
    if minutes >= WHOLE_SCHEDULE_MINUTES:
        assert report["faults"]["broker_killed"] == 1


@pytest.mark.long
@pytest.mark.timeout(200)
def test_an_interrupted_run_leaves_no_process_and_no_folder(local_kafka: LocalKafka, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.torture", "--jobs", "100", "--minutes", "1", "--workers", "1"]
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True)
    try:
        wait_until(lambda: "all up" in (tmp_path / "said").read_text(), 90, "the start")
        assert len(_processes_in(tmp_path)) >= 5
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == INTERRUPTED
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: _processes_in(tmp_path) == [], 15, "the end of every process of the run")
    assert [path.name for path in tmp_path.iterdir()] == ["said"]


def _processes_in(folder: Path) -> list[str]:
    """Command lines of processes that were started with, or work in, a folder below this one."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and (os.fsencode(folder) + b"/backstop" in (entry / "environ").read_bytes()):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
