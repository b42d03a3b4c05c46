"""Each declared failpoint is passed in its one place, and each action does what its name says."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from backstop.runtime.process.failpoints import Failpoint

ROOT = Path(__file__).parents[4]
PRODUCT = ("schemas", "streams", "receiver", "backstop")

FOLD_SHELL = ("parsed", "outputs.sent", "outputs.acked")
"""Passed by `FoldShell._point`, in this order, for both folds."""

IN_ORDER: dict[str, tuple[str, ...]] = {
    "receiver/ingress/webhooks.py": ("receiver.webhook.verified", "receiver.webhook.acked"),
    "receiver/ingress/submissions.py": ("receiver.job.acked",),
    "streams/agents/agents.py": ("intake.jobs.acked",),
    "streams/workers/submitter.py": (
        "submitter.taken", "submitter.committed", "submitter.tail.reading", "submitter.reported", "submitter.posted",
        "submitter.answered",
    ),
    "streams/workers/poller.py": ("poller.taken", "poller.answered", "poller.reported"),
    "streams/scheduler/service.py": ("scheduler.timer.acked",),
    "streams/scheduler/due.py": ("scheduler.index.rebuilding",),
    "streams/results.py": ("results.begun", "results.sent", "results.fenced", "results.tail.reading"),
    "backstop/readmodel/projector.py": ("projection.committed", "projection.in_transaction"),
    "backstop/readmodel/rebuild.py": ("projection.rebuilding",),
    "backstop/readmodel/erasing.py": ("erasing.removed", "erasing.told"),
    "backstop/outgoing/service.py": ("outgoing.planned",),
    "backstop/outgoing/attempts.py": ("outgoing.taken", "outgoing.answered", "outgoing.reported"),
}  # fmt: skip
"""Where each is passed: file → names in the order of its text."""

BY_FOLD = {
    "streams/app.py": ("changelog.acked", "rows.written", "recovering"),
    "streams/agents/fold_shell.py": FOLD_SHELL,
}


def test_each_declared_failpoint_is_passed_at_one_place() -> None:
    expected = {name for names in IN_ORDER.values() for name in names}
    expected |= {
        f"{fold}.{point}" for points in BY_FOLD.values() for point in points for fold in ("job_fold", "response_fold")
    }
    assert expected == set(get_args(Failpoint))
    texts = {path: path.read_text() for package in PRODUCT for path in (ROOT / package).rglob("*.py")}
    for file, names in IN_ORDER.items():
        at = [texts[ROOT / file].find(f'failpoint("{name}")') for name in names]
        assert -1 not in at, f"{file}: {names[at.index(-1)]} is not passed"
        assert at == sorted(at), f"{file}: not in the order of {names}"
    for name in expected:
        assert sum(text.count(f'failpoint("{name}")') for text in texts.values()) <= 1, f"{name} is passed twice"
    shell = texts[ROOT / "streams/agents/fold_shell.py"]
    assert [shell.count(f'self._point("{point}")') for point in FOLD_SHELL] == [1] * len(FOLD_SHELL)
    app = texts[ROOT / "streams/app.py"]
    assert [app.count(f'failpoint(f"{{fold.name}}.{point}")') for point in BY_FOLD["streams/app.py"]] == [1, 1, 1]


@pytest.mark.parametrize(
    ("setting", "passes", "code"),
    [
        ("submitter.taken=kill", 1, -signal.SIGKILL), ("submitter.taken:3=kill", 3, -signal.SIGKILL),
        ("submitter.taken:3=kill", 2, 0),
        ("submitter.taken=raise", 1, 1), ("submitter.taken=nothing", 0, 1), ("submitter.takem=kill", 0, 1), ("", 3, 0),
    ],
)  # fmt: skip
def test_an_armed_failpoint_strikes_at_its_nth_passing(setting: str, passes: int, code: int) -> None:
    program = (
        f"from backstop.runtime.process import failpoints as f; f.arm({setting!r}); "
        f"[f.failpoint('submitter.taken') for _ in range({passes})]"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL, timeout=30, check=False)
    assert done.returncode == code


def test_a_process_that_hangs_lives() -> None:
    program = (
        "from backstop.runtime.process import failpoints as f; f.arm('submitter.taken=hang'); "
        "print('on', flush=True); f.failpoint('submitter.taken')"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.kill()
