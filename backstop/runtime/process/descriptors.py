"""How many files a process may have open: the soft limit is often 1,024, the most that `select` could handle."""

import os
import resource

from backstop.runtime.process.probes import Probe

FREE_MIN = 16
"""A store's next files, a connection to each broker that moved, and one for a readiness request."""


def allow_files(count: int) -> int:
    """Raise the soft limit to `count`, or to the hard limit if that is lower. Returns the limit now in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return count
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def files_probe(free_min: int = FREE_MIN) -> Probe:
    """Complains while fewer than `free_min` more files can be opened."""

    def complaint() -> str | None:
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if allowed == resource.RLIM_INFINITY:
            return None
        try:
            with os.scandir("/dev/fd") as listed:
                free = allowed - sum(1 for _ in listed) + 1  # the listing itself is open
        except OSError as error:
            return f"no file can be opened: {error.strerror or error}"
        return None if free >= free_min else f"{max(free, 0)} more files can be opened; the limit is {allowed}"

    return complaint
