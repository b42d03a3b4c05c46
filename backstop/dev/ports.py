"""Ports, drawn before anything starts and held until it ends: a child that crashes comes back at the same address."""

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
    """Ports of this machine's loopback that are ours until `release`."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []
        self._locks: dict[Path, IO[str]] = {}

    def draw(self, preferred: int = 0) -> int:
        """`preferred` if it is free, else one that the system gives.

        :raises ConfigurationError: the machine has none left.
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
        """Bind and do not listen: on Linux a child may then still bind and listen (both reuse the address), while the system
        gives the port to nobody else.
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
        else:  # elsewhere a bound port can't be shared: let go, and hope
            probe.close()
        return bound

    def _lock(self, port: int) -> bool:
        """Two of us may want the same port at the same moment, before either listens there."""
        path = Path(tempfile.gettempdir()) / f"backstop-port-{port}.lock"
        with suppress(OSError):
            lock = path.open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever held it has removed it, perhaps, since we opened it: then the lock is on a file that nobody else finds.
                found = os.path.samestat(os.fstat(lock.fileno()), path.stat())
            except OSError:
                found = False
            if found:
                self._locks[path] = lock
                return True
            lock.close()
        return False
