"""What a process that `Apart` started does with its two files. A module of its own, as it imports little."""

import os
import sys
from collections.abc import Iterable


def taken(given: int) -> bytes:
    """In the process: the data, whose file is empty then, so that there is one copy."""
    with os.fdopen(given, "r+b") as file:
        data = file.read()
        file.truncate(0)
    return data


def taken_to_empty(given: int) -> bytearray:
    """As `taken`, for a reader that gives the memory back before it has a result."""
    with os.fdopen(given, "r+b") as file:
        data = bytearray(os.fstat(given).st_size)
        file.readinto(data)
        file.truncate(0)
    return data


def left(written: int, head: bytes, texts: Iterable[bytes]) -> None:
    """In the process: leave `head`, and `texts` as one text, to the parent."""
    with os.fdopen(written, "wb") as file:
        file.writelines(texts)
    sys.stdout.buffer.write(head)
