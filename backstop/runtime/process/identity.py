"""The name by which the broker, and so the operator, knows a process: what it is, its release, where it runs.

It is the client id of the process in its consumer groups. The broker's description of a group then tells which process
holds which partitions, and no process has to say so.
"""

import os
import re
import socket
from dataclasses import dataclass
from typing import Final

from backstop.runtime.release import release

_NAME: Final = re.compile(r"([a-z]{1,20})/([A-Za-z0-9.+\-]{1,40})/([A-Za-z0-9.\-]{1,100})/(\d{1,10})")
_NOT_OF_A_HOST: Final = re.compile(r"[^A-Za-z0-9.\-]")


@dataclass(frozen=True, slots=True)
class ProcessName:
    component: str
    version: str
    host: str
    pid: int

    def __str__(self) -> str:
        return f"{self.component}/{self.version}/{self.host}/{self.pid}"

    @property
    def place(self) -> str:
        """Host and pid: one process, whatever parts it has."""
        return f"{self.host}:{self.pid}"


def own_name(component: str) -> ProcessName:
    """The name of this process in its role `component`."""
    host = _NOT_OF_A_HOST.sub("-", socket.gethostname())[:100] or "unnamed"
    return ProcessName(component, release(), host, os.getpid())


def name_from(client_id: str) -> ProcessName | None:
    """None: a client of another kind, or of a release before this one."""
    found = _NAME.fullmatch(client_id)
    return None if found is None else ProcessName(found[1], found[2], found[3], int(found[4]))
