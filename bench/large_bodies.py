"""Measures the memory of a large body on its whole way: `python -m bench.large_bodies [--megabytes 20]`.

Starts the whole system with a broker of its own and the simulator, and sends one create of each kind, after a small and
a large one that warm it up. The cost is the peak of resident memory over the idle process: of `serve`, and of `worker`
with all processes below it (one reads large requests), summed every 5 ms.
"""

import argparse
import io
import os
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

import orjson

from backstop.dev.fast_provider import BRISK
from backstop.dev.system import Shape, System
from tests.kafka.held import held

LARGE = {
    "BACKSTOP_SUBMIT_BYTES_MAX": str(64 << 20), "BACKSTOP_POLL_TIMEOUT_MS": "60000",
    "BACKSTOP_SUBMISSION_CREATE_TIMEOUT_MS": "30000",
}  # fmt: skip
KINDS = {
    "base64": ("", "iVBORw0KGg"),
    "base64 after one emoji": ("😀", "iVBORw0KGg"),
    "escapes": ("", '\n"\\'),
    "four-byte characters": ("", "Grüße 😀, "),
}


def resident_bytes(pid: int, parent: bytes = b"") -> tuple[int, ...]:
    """Of a process and all below it. A child that has not begun its program is left out: its memory is its parent's."""
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if command == parent:
            return ()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        below = (each for child in children for each in resident_bytes(int(child), command))
        return (pages * os.sysconf("SC_PAGE_SIZE"), *below)
    return ()


class Peak:
    """The most memory that the processes took while it was watched, beyond what they had before."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self._before = self._most = resident_bytes(pid)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            self._most = max(self._most, resident_bytes(self._pid), key=sum)

    def end(self) -> str:
        """In MiB, and of each process; the last is the one that reads."""
        self._ended.set()
        self._thread.join()
        parts = [most - before for most, before in zip_longest(self._most, self._before, fillvalue=0)]
        return " + ".join(f"{part / 2**20:.0f}" for part in (sum(parts), *parts)).replace(" + ", " = ", 1)


def create(system: System, text: str) -> None:
    """A create, and its end."""
    body = orjson.dumps({"model": "gpt-5.2", "background": True, "input": text})
    asked = urllib.request.Request(f"{system.url}/v1/responses", io.BytesIO(body), {"Content-Type": "application/json"})
    asked.add_header("Content-Length", str(len(body)))
    with urllib.request.urlopen(asked, timeout=120) as answer:
        made = orjson.loads(answer.read())
    while True:
        with urllib.request.urlopen(f"{system.url}/v1/jobs/{made['id']}?wait=10", timeout=120) as told:
            if orjson.loads(told.read())["status"] == "completed":
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_"))}
    with tempfile.TemporaryDirectory() as folder:
        shape = Shape(
            folder=Path(folder), environment={**BRISK, **environment}, settings=LARGE, port=0, partitions=2,
            time_scale=20.0,
        )  # fmt: skip
        with held(shape) as system:
            create(system, "Hi.")
            create(system, "x" * (3 << 20))
            for number in range(asked.rounds):
                for kind, (begin, unit) in KINDS.items():
                    count = asked.megabytes * 1_000_000 // (len(orjson.dumps(unit)) - 2)
                    time.sleep(1.0)  # what was freed is given back
                    pids = {name: system.supervisor.pid(name) for name in ("serve", "worker")}
                    peaks = {name: Peak(pid) for name, pid in pids.items() if pid is not None}
                    create(system, begin + unit * count + str(number))
                    told = ", ".join(f"{name} {peak.end()} MiB" for name, peak in peaks.items())
                    print(f"{asked.megabytes} MB of {kind}: {told}", flush=True)


if __name__ == "__main__":
    main()
