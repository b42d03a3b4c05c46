"""A PostgreSQL server for tests, from Debian's binaries: a temporary folder and socket."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_until

HOMES = Path("/usr/lib/postgresql")
LESS_WORK = {"autovacuum": "off", "checkpoint_timeout": "1h", "full_page_writes": "off", "synchronous_commit": "off"}
"""What pays only for tables that live longer than a test."""


def binaries() -> Path | None:
    """The newest installed version's folder."""
    found = [home / "bin" for home in HOMES.glob("*") if (home / "bin" / "initdb").exists()]
    return max(found, key=lambda path: float(path.parent.name), default=None)


def unprivileged() -> dict[str, Any]:
    """The user to run it as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


class Server:
    """A server with its `url`. Tests may stop and restart it."""

    def __init__(self, bin_path: Path, folder: Path, *, durable: bool = False) -> None:
        self._bin = bin_path
        self._durable = durable
        self._folder = folder
        self._whom = unprivileged()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://backstop@/postgres?host={folder}"

    def make(self) -> None:
        if self._whom:
            os.chown(self._folder, int(str(self._whom["user"])), int(str(self._whom["group"])))
        subprocess.run(
            [self._bin / "initdb", "-D", self._folder / "data", "-U", "backstop", "-A", "trust", "-N", "-E", "UTF8"],
            check=True, capture_output=True, cwd=self._folder, **self._whom,
        )  # fmt: skip

    def start(self) -> None:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": self._folder,
            "fsync": "on" if self._durable else "off",
            "max_connections": 50,
            **({} if self._durable else LESS_WORK),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen[bytes](
            [self._bin / "postgres", "-D", self._folder / "data", *options],
            cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._whom,
        )  # fmt: skip
        ask: list[str | Path] = [self._bin / "pg_isready", "-q", "-h", self._folder]
        wait_until(lambda: subprocess.run(ask, check=False).returncode == 0, 20, "PostgreSQL to accept connections")

    @property
    def pid(self) -> int:
        """Of the server that runs."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Stop like a failing machine: connections break."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(20)
            self._process = None


@contextmanager
def postgres(*, durable: bool = False) -> Iterator[Server | None]:
    """A running server; `durable`: a commit is on the disk. None where PostgreSQL is not installed."""
    bin_path = binaries()
    if bin_path is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="bspg", dir="/tmp"))  # a socket's path may have 107 bytes
    server = Server(bin_path, folder, durable=durable)
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
