"""MinIO, where it is on the PATH, or where BACKSTOP_TEST_S3_SERVER says
(`go install github.com/minio/minio@latest`).
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.unit.backstop.runtime.s3_server import KEY_ID, NAME, SECRET, client
from tests.unit.backstop.runtime.server_programs import serving

MINIO: Final = os.environ.get("BACKSTOP_TEST_S3_SERVER") or shutil.which("minio")
"""None: it is not installed, and its tests are skipped."""

WITHOUT: Final = "no MinIO: put `minio` on the PATH, or set BACKSTOP_TEST_S3_SERVER to its program"


@contextmanager
def minio() -> Iterator[str]:
    """The address of a server with the empty bucket `NAME`."""
    assert MINIO is not None
    program = MINIO
    root = {"MINIO_ROOT_USER": KEY_ID, "MINIO_ROOT_PASSWORD": SECRET, "MINIO_BROWSER": "off"}
    with serving(
        lambda port, folder: (program, "server", folder, "--address", f"127.0.0.1:{port}", "--quiet"),
        lambda address: bool(client(address).create_bucket(Bucket=NAME)),
        root,
    ) as address:
        yield address
