"""Logs a failure of the receiver: its type and place, never its message, which may quote a prompt or a secret."""

import traceback
from typing import Any

from backstop.runtime.process.logs import get_logger

FRAMES_MAX = 12

log = get_logger("receiver.failures")


def log_failure(error: BaseException | None, **known: Any) -> None:
    """One line with the type of `error` and its innermost frames, at most `FRAMES_MAX`."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:] if error is not None else []
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    log.error("request_failed", error_type=type(error).__name__, where=where, **known)
