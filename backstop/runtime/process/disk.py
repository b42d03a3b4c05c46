"""Whether a folder can still be written to: `/readyz` reports it before a write fails, and `status` before that."""

import os
from collections.abc import Callable
from pathlib import Path

from backstop.runtime.process.probes import Probe

FREE_BYTES_MIN = 32 * 1024 * 1024
"""Room for a store's log and next memtable, in a few partitions at once."""

NEARLY_FULL_SHARE = 0.05
NEARLY_FULL_BYTES = 5 * 1024**3
"""A disk is nearly full below this share of its size and below this many bytes: 5 % of a large disk last for long."""


def disk_probe(folder: Path, free_bytes_min: int = FREE_BYTES_MIN) -> Probe:
    """Complains while the disk of `folder` is read-only, or has less than `free_bytes_min` free."""
    return _probe(folder, lambda _size: free_bytes_min)


def nearly_full_probe(folder: Path) -> Probe:
    """Complains while the disk of `folder` is nearly full: in time to make room. A missing folder is made later."""
    low = _probe(folder, lambda size: int(min(NEARLY_FULL_SHARE * size, NEARLY_FULL_BYTES)))
    return lambda: low() if folder.exists() else None


def _probe(folder: Path, free_bytes_min: Callable[[int], int]) -> Probe:
    def complaint() -> str | None:
        try:
            state = os.statvfs(folder)
        except OSError as error:
            return f"{folder}: {error.strerror or error}"
        if state.f_flag & os.ST_RDONLY:
            return f"the disk of {folder} is read-only"
        free = state.f_bavail * state.f_frsize
        least = free_bytes_min(state.f_blocks * state.f_frsize)
        return None if free >= least else f"{free >> 20} MiB left on the disk of {folder}"

    return complaint
