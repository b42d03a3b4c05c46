"""The person that runs a command: facts and keys keep that name."""

import getpass
import os
from typing import Final

from backstop.runtime.http.keys import NAME_CHARS_MAX

SUDO_USER: Final = "SUDO_USER"
"""Set by `sudo`. The user of the process is then the one that the command was run as, which is the same for all."""


def person(by: str | None = None) -> str:
    """`by` if it is given. Else the operating system's name of the user; under `sudo`, of the one that called it. A
    number where it has none.
    """
    if by:
        return by
    try:
        name = os.environ.get(SUDO_USER) or getpass.getuser()
    except (KeyError, OSError):  # a container may run as any number
        name = ""
    shown = "".join(letter for letter in name if letter.isprintable()).strip()
    return shown[:NAME_CHARS_MAX] or f"uid {os.getuid()}"
