"""MinIO, where it is on the PATH, or where BACKSTOP_TEST_S3_SERVER says
(`go install github.com/minio/minio@latest`).
"""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.support.waiting import wait_until
from tests.unit.backstop.runtime.s3_server import KEY_ID, NAME, SECRET, client

MINIO: Final = os.environ.get("BACKSTOP_TEST_S3_SERVER") or shutil.which("minio")
"""None: it is not installed, and its tests are skipped."""

WITHOUT: Final = "no MinIO: put `minio` on the PATH, or set BACKSTOP_TEST_S3_SERVER to its program"


@contextmanager
def minio() -> Iterator[str]:
    """The address of a server with the empty bucket `NAME`."""
    assert MINIO is not None
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "MINIO_ROOT_USER": KEY_ID, "MINIO_ROOT_PASSWORD": SECRET, "MINIO_BROWSER": "off"}
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("server", folder, "--address", f"127.0.0.1:{port}", "--quiet")
        server = subprocess.Popen([MINIO, *arguments], env=environment, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: bool(client(address).create_bucket(Bucket=NAME)), 60, "the bucket")
            yield address
        finally:
            server.terminate()
            server.wait()
