"""The name by which the broker, and so the operator, knows a process: what it is, its release, where it runs.

It is the client id of the process in its consumer groups. The broker's description of a group then tells which process
holds which partitions, and no process has to say so.
"""

import os
import re
import socket
from dataclasses import dataclass
from typing import Final

from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.release import release

_NAME: Final = re.compile(r"([a-z]{1,20})/([A-Za-z0-9.+\-]{1,40})/([A-Za-z0-9.\-]{1,100})/(\d{1,10})")
_NOT_OF_A_HOST: Final = re.compile(r"[^A-Za-z0-9.\-]")
_LIFE: Final = re.compile(r"([0-9a-f]{12})/(\d{1,9})")
_BEGAN_S: Final = monotonic_s()
_OWN_LIFE: Final = os.urandom(6).hex()


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


def own_life() -> str:
    """`4f0c1d2e3a5b/12`: this start of the process, and for how many seconds it has run.

    In a container the first process has the same id at each start, so its name does not tell one start from the next.
    """
    return f"{_OWN_LIFE}/{monotonic_s() - _BEGAN_S:.0f}"


def life_from(text: str) -> tuple[str, int] | None:
    """What `own_life` tells; None: it is something else."""
    found = _LIFE.fullmatch(text)
    return None if found is None else (found[1], int(found[2]))


def name_from(client_id: str) -> ProcessName | None:
    """None: a client of another kind, or of a release before this one."""
    found = _NAME.fullmatch(client_id)
    return None if found is None else ProcessName(found[1], found[2], found[3], int(found[4]))
