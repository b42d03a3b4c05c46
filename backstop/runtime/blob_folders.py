"""Detects processes that use different blob folders, before a body is lost.

A worker can't read a body in a folder that it does not see, and a receiver can't respect a claim that it does not see.
So each process that stores or sends bodies names its folder in its records on `clock`
(`backstop.runtime.kafka.broker_clock`), and `serve` reads them. Since paths differ between machines, a folder is
identified by a random name in a file within it.
"""

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from backstop.runtime.kafka.broker_clock import ASK_EVERY_S
from backstop.runtime.process.chance import RandomHex
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.logs import get_logger

FILE: Final = "folder-id"
ID_BITS: Final = 128
HEARD_MS: Final = int(4 * ASK_EVERY_S * 1000)
"""A process silent for so long has ended, or changed its folder."""
FOREIGN_MAX: Final = 100
"""Foreign folders remembered; more would add nothing."""

TOLD_MAX: Final = 5
"""Processes named in a finding."""

_SAID = re.compile(rb"([A-Za-z0-9_.\-]{1,64}) ([0-9a-f]{32})")

log = get_logger("backstop.runtime.blob_folders")


def folder_id(root: Path, random_hex: RandomHex) -> str:
    """The folder's id; the first process that asks creates it.

    :raises OSError: the folder can't be written.
    """
    file = root / FILE
    root.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        # Written to a temporary file and linked: one of several processes names the folder, and no reader sees a
        # partial name.
        descriptor, part = tempfile.mkstemp(prefix=f"{FILE}.", suffix=".part", dir=root)
        try:
            with os.fdopen(descriptor, "w") as writing:
                writing.write(random_hex(ID_BITS))
            with suppress(FileExistsError):
                os.link(part, file)
        finally:
            Path(part).unlink(missing_ok=True)
    return file.read_text()


def own_folder(root: Path, random_hex: RandomHex) -> str | None:
    """As `folder_id`; None, with an error in the log, if the folder
    can't be written: other processes then see no name.
    """
    try:
        return folder_id(root, random_hex)
    except OSError as error:
        log.error("blob_folder_unusable", errno=error.errno)
        return None


class BlobFolders:
    """The blob folders that other processes name."""

    def __init__(self, own: str, now_ms: NowMs) -> None:
        self._own = own
        self._now_ms = now_ms
        self._foreign: dict[str, tuple[int, str]] = {}
        """When a process last named each, and which process."""
        self._was_ready = False

    def heard(self, value: bytes | None, at_ms: int) -> None:
        """Take a record of `clock`. Any producer may have written it, so it is parsed strictly and else ignored."""
        match = _SAID.fullmatch(value or b"")
        if match is None or (name := match[2].decode()) == self._own:
            return
        process = match[1].decode()
        if name not in self._foreign:
            log.error("blob_folder_differs", own=self._own, other=name, said=process)
        self._foreign.pop(name, None)
        self._foreign[name] = at_ms, process
        while len(self._foreign) > FOREIGN_MAX:
            del self._foreign[next(iter(self._foreign))]

    def shared(self) -> bool:
        """Whether no process named another folder within `HEARD_MS`."""
        return not self.elsewhere()

    def elsewhere(self) -> list[str]:
        """For each other folder that was named within `HEARD_MS`, the process that named it last."""
        since_ms = self._now_ms() - HEARD_MS
        return [process for at_ms, process in self._foreign.values() if at_ms >= since_ms]

    def difference(self) -> str | None:
        """Which processes use other folders than this one, as a sentence; None if none does."""
        found = sorted(set(self.elsewhere()))
        if not found:
            return None
        more = f" and {len(found) - TOLD_MAX} more" if len(found) > TOLD_MAX else ""
        return (
            f"{', '.join(found[:TOLD_MAX])}{more} on another machine or with other settings: bodies that one process "
            "stores are missing for the other. Give all processes the same BACKSTOP_BLOBS, or the same "
            "BACKSTOP_BLOB_DIR"
        )

    def not_ready(self) -> str | None:
        """Why this process should get no work. None once it was ready: a
        misconfigured newcomer must not stop running processes.
        """
        if self.shared():
            self._was_ready = True
        if self._was_ready:
            return None
        return "another process uses another blob folder: give all of them the same BACKSTOP_BLOB_DIR"
