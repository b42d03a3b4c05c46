"""Files of ours, which hold prompts, results and keys: their owner's alone (0600, folders 0700), whatever the umask was."""

import os
import stat
from pathlib import Path
from typing import Final

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def private_umask() -> None:
    """For all that this process and its libraries make from now on (stores, logs, blobs, the database). First of all."""
    os.umask(OTHERS)


def make_private(folder: Path) -> None:
    """Close a folder that an earlier release or somebody's `mkdir` left open, and make it where it is missing.

    One that belongs to somebody else stays as it is: a mounted volume, most likely, and its owner's to decide. So does one that is meant
    for everybody, as /tmp is (sticky): what we make in it is private all the same.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=stat.S_IRWXU)
    found = folder.stat()
    if found.st_uid == os.geteuid() and found.st_mode & OTHERS and not found.st_mode & stat.S_ISVTX:
        folder.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
