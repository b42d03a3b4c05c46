"""`make torture` in its short form: the whole system in real processes, killed at each failpoint, frozen, cut off, and judged."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from runtime.broker import LocalKafka
from tests.torture.failpoint_deck import FAILPOINTS, REBUILD
from tests.torture.plan import Plan
from tests.torture.report import as_json
from tests.torture.run import run

JOBS = 400
MINUTES = 2.0
FAILPOINTS_MIN = len(FAILPOINTS) * 2 // 3
"""How many a machine must get through in that time, however slow it is; two free cores get through all."""


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_nothing_is_lost_or_done_twice_or_stuck_whatever_is_killed(local_kafka: LocalKafka, tmp_path: Path) -> None:
    seed = int(os.environ.get("TORTURE_SEED", "1"))
    plan = Plan(folder=tmp_path, jobs=JOBS, minutes=MINUTES, seed=seed, workers=2, timeout_ms=30_000, short=True)
    said: list[str] = []
    outcome = asyncio.run(run(plan, said.append, lambda _kill: None))
    report = asyncio.run(as_json(outcome, local_kafka))
    (tmp_path / "report.json").write_text(json.dumps(report, indent=2))
    where = f"seed {seed}; logs, ledgers and topics: {tmp_path}\n" + "\n".join(said)
    assert report["violations"] == [], where
    assert report["jobs"]["acknowledged"] == JOBS
    hit = [name for name, kills in report["kills"]["by_failpoint"].items() if kills]
    assert len(hit) >= FAILPOINTS_MIN, f"never killed at {sorted(set(FAILPOINTS) - set(hit))}; {where}"
    assert REBUILD in hit
    assert report["stops"]["at"].get("worker", 0) >= 1
    assert report["faults"]["broker_killed"] == 1
