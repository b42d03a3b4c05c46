"""Private files: they hold prompts, results and keys, so only their owner may read them (0600, folders 0700).

And names of files that outlive a power failure.
"""

import os
import stat
from pathlib import Path
from typing import Final

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def private_umask() -> None:
    """Close every file that this process and its libraries create from now on. Call before anything creates a file."""
    os.umask(OTHERS)


def make_private(folder: Path) -> None:
    """Create `folder` if it is missing, and remove the rights of group and others from an existing one.

    A folder that belongs to another user is left as it is: probably a mounted volume, whose owner decides. So is a
    sticky folder such as /tmp, which is meant for all users: the files created in it are private all the same.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=stat.S_IRWXU)
    found = folder.stat()
    if found.st_uid == os.geteuid() and found.st_mode & OTHERS and not found.st_mode & stat.S_ISVTX:
        folder.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
