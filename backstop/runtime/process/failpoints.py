"""Named places at which a test may kill, stop or break the process.

`BACKSTOP_FAILPOINTS="submitter.posted:3=kill,results.sent=stop"`: a name, the hit at which to act (default 1), an
action. When unset, a call costs one comparison. The names are one `Literal`: mypy rejects a misspelt call, and the
start fails on a misspelt setting.
"""

import os
import signal
import threading
from dataclasses import dataclass
from typing import Literal, get_args

Failpoint = Literal[
    "receiver.webhook.verified", "receiver.webhook.acked", "receiver.job.acked",
    "intake.jobs.acked",
    "job_fold.parsed", "job_fold.outputs.sent", "job_fold.outputs.acked", "job_fold.changelog.acked",
    "job_fold.rows.written", "job_fold.recovering",
    "response_fold.parsed", "response_fold.outputs.sent", "response_fold.outputs.acked",
    "response_fold.changelog.acked", "response_fold.rows.written", "response_fold.recovering",
    "submitter.taken", "submitter.committed", "submitter.posted", "submitter.answered", "submitter.reported",
    "submitter.tail.reading",
    "poller.taken", "poller.answered", "poller.reported",
    "scheduler.timer.acked", "scheduler.index.rebuilding",
    "results.begun", "results.sent", "results.fenced", "results.tail.reading",
    "projection.in_transaction", "projection.committed", "projection.rebuilding",
    "erasing.removed", "erasing.told",
    "outgoing.planned", "outgoing.taken", "outgoing.answered", "outgoing.reported",
]  # fmt: skip
Action = Literal["kill", "stop", "raise", "hang"]
"""`hang`: the calling thread blocks for ever, while the process and its other threads go on."""


class FailpointError(RuntimeError):
    """Raised by a failpoint with the action `raise`."""


@dataclass(slots=True)
class _Armed:
    hit_at: int
    action: Action
    hits: int = 0


_armed: dict[str, _Armed] = {}


def arm(setting: str) -> None:
    """Replace all armed failpoints by those of `setting`; an empty string disarms all.

    :raises ValueError: an unknown name or action, or a hit that is not a number from 1.
    """
    parsed: dict[str, _Armed] = {}
    for item in filter(None, (part.strip() for part in setting.split(","))):
        place, _, action = item.partition("=")
        name, _, hit = place.partition(":")
        if name not in get_args(Failpoint):
            raise ValueError(f"failpoint {name!r} does not exist; known: {', '.join(get_args(Failpoint))}")
        if action not in get_args(Action):
            raise ValueError(f"failpoint {name}: action {action!r}; one of {', '.join(get_args(Action))}")
        if hit and (not hit.isdecimal() or int(hit) < 1):
            raise ValueError(f"failpoint {name}: hit {hit!r} is not a number from 1")
        parsed[name] = _Armed(int(hit or 1), action)  # type: ignore[arg-type]  # checked above
    _armed.clear()
    _armed.update(parsed)


def armed() -> dict[str, str]:
    """The armed failpoints, for the log and `/version`."""
    return {name: f"{point.action} at hit {point.hit_at}" for name, point in _armed.items()}


def failpoint(name: Failpoint) -> None:
    """Pass the place `name`. At the armed hit, perform its action."""
    if not _armed:
        return
    point = _armed.get(name)
    if point is None:
        return
    point.hits += 1
    if point.hits != point.hit_at:
        return
    if point.action == "raise":
        raise FailpointError(name)
    if point.action == "hang":
        threading.Event().wait()
    os.kill(os.getpid(), signal.SIGKILL if point.action == "kill" else signal.SIGSTOP)
