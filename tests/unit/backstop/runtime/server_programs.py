"""Servers of others, as programs of their own."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.support.waiting import wait_until

READY_WITHIN_S = 60


@contextmanager
def serving(
    command: Callable[[int, str], Sequence[str]],
    is_ready: Callable[[str], bool],
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The address of a server on a free port and an empty folder, from which `command` is made, once it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        variables = {**os.environ, **(environment or {})}
        server = subprocess.Popen(command(port, folder), env=variables, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: is_ready(address), READY_WITHIN_S, "the server")
            yield address
        finally:
            server.terminate()
            server.wait()
