"""Reserves ports before any child starts, and holds them to the end: a restarted child keeps its address."""

import fcntl
import os
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from backstop.runtime.errors import ConfigurationError

HOST = "127.0.0.1"


class Ports:
    """Ports of this machine's loopback, reserved until `release`."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []
        self._locks: dict[Path, IO[str]] = {}

    def draw(self, preferred: int = 0) -> int:
        """`preferred` if it is free, else a port chosen by the operating system.

        :raises ConfigurationError: no port is free.
        """
        if preferred and self._lock(preferred) and (port := self._hold(preferred)):
            return port
        if port := self._hold(0):
            return port
        raise ConfigurationError("this machine has no free port to listen on")

    def release(self) -> None:
        for held in self._held:
            held.close()
        for path, lock in self._locks.items():
            path.unlink(missing_ok=True)
            lock.close()
        self._held.clear()
        self._locks.clear()

    def _hold(self, port: int) -> int | None:
        """Bind without listening. On Linux a child can still bind and listen (both set SO_REUSEADDR), while the system
        does not give the port to other programs.
        """
        probe = socket.socket()
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
        except OSError:
            probe.close()
            return None
        bound = int(probe.getsockname()[1])
        if sys.platform == "linux":
            self._held.append(probe)
        else:  # other systems don't share a bound port: release it, and accept that another program may take it
            probe.close()
        return bound

    def _lock(self, port: int) -> bool:
        """Lock the port among Backstop's processes: two of them may choose it before either one listens."""
        path = Path(tempfile.gettempdir()) / f"backstop-port-{port}.lock"
        with suppress(OSError):
            lock = path.open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The former holder may have removed the file since it was opened here. Then this lock excludes no
                # other process, which would lock a new file of that name.
                found = os.path.samestat(os.fstat(lock.fileno()), path.stat())
            except OSError:
                found = False
            if found:
                self._locks[path] = lock
                return True
            lock.close()
        return False
