"""Azurite, Microsoft's stand-in for Azure's blob service, where it is on the PATH (`npm install -g azurite`)."""

import base64
import hashlib
import hmac
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http import HTTPStatus
from typing import Final
from urllib.request import Request, urlopen

from tests.unit.backstop.runtime.s3_server import NAME
from tests.unit.backstop.runtime.server_programs import serving

AZURITE: Final = shutil.which("azurite-blob")
"""None: it is not installed, and the container is not tried."""

ACCOUNT: Final = "devstoreaccount1"
ACCOUNT_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key that Azurite's documentation gives to everyone."""


@contextmanager
def azurite() -> Iterator[str]:
    """The address of the account on a server with the empty container `NAME`."""
    assert AZURITE is not None
    program = AZURITE
    with serving(
        lambda port, folder: (
            program,
            "--blobPort",
            str(port),
            "--silent",
            "--skipApiVersionCheck",
            "--location",
            folder,
        ),
        lambda address: _made(f"{address}/{ACCOUNT}"),
    ) as address:
        yield f"{address}/{ACCOUNT}"


def _made(address: str) -> bool:
    """Make the container, which obstore can't, by a request with Azure's shared-key signature."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03"}
    said = "".join(f"{name}:{value}\n" for name, value in headers.items())
    signed = f"PUT{chr(10) * 12}{said}/{ACCOUNT}/{ACCOUNT}/{NAME}\nrestype:container"
    digest = hmac.digest(base64.b64decode(ACCOUNT_KEY), signed.encode(), hashlib.sha256)
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    request = Request(f"{address}/{NAME}?restype=container", method="PUT", headers=headers)
    with urlopen(request, timeout=5) as answer:
        return bool(answer.status == HTTPStatus.CREATED)
