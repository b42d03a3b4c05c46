"""What processes use, as Linux counts it under `/proc`."""

import os
import resource
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def below(root: int) -> list[int]:
    """The pids of all processes below this one."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found, left = [], [root]
    while left:
        left += (more := children.get(left.pop(), []))
        found += more
    return found


def cpu_s(roots: Iterable[int]) -> float:
    """Processor seconds so far, of these processes and all below them, ended ones included."""
    ticks = 0
    for root in roots:
        for pid in (root, *below(root)):
            with suppress(OSError):
                ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def pss_mib(roots: Iterable[int]) -> float:
    """Memory of these processes and all below them; what they share is counted once."""
    kib = 0
    for root in roots:
        for pid in (root, *below(root)):
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
