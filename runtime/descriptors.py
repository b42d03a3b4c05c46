"""How many files a process may have open: the soft limit is often 1,024, from a time when `select` could count no further."""

import resource


def allow_files(count: int) -> int:
    """Raise the soft limit to `count`, or as far as the hard one lets us; what is allowed then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return count
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
