"""Claims: the submission that a job id belongs to, known to all receivers and intakes before one writes to the log.

The log decides in the end: the first submission of a job id in it is the job. But the sender of the second one would
learn that late. So each process claims a caller's chosen id for the hash of its submission, in a folder shared by all,
and the first claim wins. A claim bridges the time until the read model has the job, and is swept after a day.
"""

import asyncio
import re
from pathlib import Path
from typing import Final, Protocol

from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.logs import get_logger
from backstop.runtime.process.threads import Threads
from schemas.codec import sha256_hex

KEPT_MS: Final = 24 * 3_600_000
SWEEP_S: Final = 3_600.0
CLAIM_S: Final = 10.0
"""For the file system to make a claim. One that hangs never answers."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")

log = get_logger("backstop.runtime.claims")


class Claims(Protocol):
    async def claim(self, job_id: str, sha256: str) -> str | None:
        """The hash of the submission that owns `job_id`: `sha256`, or that of an earlier claim. None: the claims can't
        tell.
        """


class FolderClaims:
    def __init__(self, root: Path, within_s: float = CLAIM_S) -> None:
        self._root = root
        self._within_s = within_s
        self._threads = Threads("claims")
        self._last: dict[str, asyncio.Future[None]] = {}
        """The latest claim of each id that is being written. One process makes the claims of one id in their order."""

    async def claim(self, job_id: str, sha256: str) -> str | None:
        """As `Claims.claim`. None if the folder can't be used within `within_s`: then the log alone decides."""
        before, done = self._last.get(job_id), asyncio.get_running_loop().create_future()
        self._last[job_id] = done
        try:
            async with asyncio.timeout(self._within_s):
                if before is not None:
                    await asyncio.wait((before,))
                return await self._threads.run(self._claim, self._path(job_id), sha256)
        except OSError as error:  # a TimeoutError, too
            log.warning("claim_not_stored", job_id=job_id, errno=error.errno)
            return None
        finally:
            done.set_result(None)
            if self._last.get(job_id) is done:
                del self._last[job_id]

    async def sweep_for_ever(self, now_ms: NowMs) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self._threads.run(self.sweep, now_ms() - KEPT_MS)

    def sweep(self, before_ms: int) -> int:
        """Remove claims made before an instant; returns how many."""
        removed = 0
        for path in self._root.glob("??/*"):
            try:
                if path.lstat().st_mtime * 1000 < before_ms:
                    path.unlink()
                    removed += 1
            except OSError:
                continue  # another process sweeps too
        return removed

    def _path(self, job_id: str) -> Path:
        name = sha256_hex(job_id.encode())
        return self._root / name[:2] / name

    @staticmethod
    def _claim(path: Path, sha256: str) -> str:
        """A claim is a symbolic link that points to its hash: one call of the file system makes both, or neither. There
        is no fsync: if a crash loses the claim, the log decides.
        """
        try:
            path.symlink_to(sha256)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return FolderClaims._claim(path, sha256)
        except FileExistsError:
            first = str(path.readlink())
            return first if _SHA256.fullmatch(first) else sha256
        return sha256
