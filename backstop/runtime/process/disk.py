"""Whether a folder can still be written to: `/readyz` reports it before a write fails."""

import os
from pathlib import Path

from backstop.runtime.process.probes import Probe

FREE_BYTES_MIN = 32 * 1024 * 1024
"""Room for a store's log and next memtable, in a few partitions at once."""


def disk_probe(folder: Path, free_bytes_min: int = FREE_BYTES_MIN) -> Probe:
    """Complains while the disk of `folder` is read-only, or has less than `free_bytes_min` free."""

    def complaint() -> str | None:
        try:
            state = os.statvfs(folder)
        except OSError as error:
            return f"{folder}: {error.strerror or error}"
        if state.f_flag & os.ST_RDONLY:
            return f"the disk of {folder} is read-only"
        free = state.f_bavail * state.f_frsize
        return None if free >= free_bytes_min else f"{free >> 20} MiB left on the disk of {folder}"

    return complaint
