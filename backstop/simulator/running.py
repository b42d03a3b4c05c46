"""A simulator in a process of its own, for tests: start it, point a client at it, break it, ask what it saw.

    with running(time_scale=60) as openai:
        client = OpenAI(base_url=openai.base_url, api_key=openai.api_key)
        openai.aim("webhook_lost")
        ...
        assert len(openai.ledger("creates")) == 1

It works for code with and without asyncio, as nothing of it runs in the caller's loop. `pytest_plugin` has it as a
fixture.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from backstop.simulator.ledgers import LEDGER_NAMES

HOST: Final = "127.0.0.1"
START_S: Final = 60.0
"""A start takes half a second; on a busy machine it may take many."""
START_CHECK_S: Final = 0.02
ANSWER_S: Final = 30.0
END_S: Final = 10.0
_OVER: Final = frozenset({"completed", "failed", "incomplete", "cancelled", "deleted", "expired", "forgotten"})


class SimulatorError(Exception):
    """The simulator did not start, or refused a control. The message is its own. Mend the test."""


class RunningSimulator:
    """A simulator that listens. Its controls and ledgers are described in docs/simulator.md."""

    def __init__(self, port: int, api_key: str) -> None:
        self._port = port
        self._since: dict[str, int] = {}
        self._before = set[str]()
        """Responses of earlier tests, of which a late line may still come."""
        self.api_key = api_key
        """The key that it takes."""
        self.base_url = f"http://{HOST}:{port}/v1"
        """What a client takes in place of OpenAI's address."""

    def reset(self) -> None:
        """Take back faults, aims, incidents, limits and webhooks, end what still runs, and begin the ledgers anew."""
        self.control("POST", "faults", {"base": "calm"})
        for what in ("aim", "incident", "limits"):
            self.control("DELETE", what)
        self.control("POST", "outage", {"for_s": 0})
        self.control("POST", "webhook", {"endpoints": []})
        over = {line["response"] for line in self.ledger("truth") if line["state"] in _OVER}
        for line in self.ledger("creates"):
            if line["response"] not in over:
                with suppress(SimulatorError):  # it has ended meanwhile
                    self.finish(line["response"], status="failed", webhook=False)
        self._before |= {line["response"] for line in self.ledger("creates")}
        for name in LEDGER_NAMES:
            self._since[name] = self._newest(name)

    def faults(self, profile: Mapping[str, Any]) -> None:
        """Merge a profile: `{"rates": {"webhook_lost": 1.0}}`."""
        self.control("POST", "faults", profile)

    def aim(self, fault: str, **match: Any) -> None:
        """Strike the next matching call; `job`, `attempt`, `response`, `nth`, `times` and `arg` narrow it."""
        self.control("POST", "aim", {"fault": fault, **match})

    def webhook(self, url: str, secret: str) -> None:
        """Send webhooks to this address, signed with this secret (`whsec_…`)."""
        self.control("POST", "webhook", {"url": url, "secret": secret})

    def incident(self, **what: Any) -> None:
        """Begin an incident: `answer="503"`, `calls="creates"`, `for_s=60`."""
        self.control("POST", "incident", what)

    def finish(self, response: str, **how: Any) -> None:
        """End an open response now: `status="failed"`, `code="server_error"`."""
        self.control("POST", "finish", {"response": response, **how})

    def ledger(self, name: str) -> list[dict[str, Any]]:
        """What was seen since the last `reset`: `creates`, `calls`, `deliveries`, `tokens` or `truth`, oldest first.

        :raises SimulatorError: there is no ledger of that name.
        """
        text = self._ask("GET", f"ledger/{name}?since={self._since.get(name, 0)}", None)[1]
        lines = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if line.get("response") not in self._before]

    def control(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask `/sim/PATH` and return its JSON.

        :raises SimulatorError: it refused; the message says why.
        """
        return json.loads(self._ask(method, path, body)[1])

    def _newest(self, name: str) -> int:
        return int(self._ask("GET", f"ledger/{name}?limit=1", None)[0]["x-sim-last"] or 0)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[http.client.HTTPMessage, str]:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=ANSWER_S)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, f"/sim/{path}", sent, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status != 200:
            raise SimulatorError(f"{method} /sim/{path} was answered with {answer.status}: {text}")
        return answer.headers, text


@contextmanager
def running(
    profile: Mapping[str, Any] | str = "calm", *, time_scale: float = 1.0, seed: int = 1, api_key: str = "sk-simulator"
) -> Iterator[RunningSimulator]:
    """Start a simulator on a free port of loopback, and end it.

    :param profile: a preset (`calm`, `demo`, `rough`, `torture`, `outlast`), a file of JSON, or the profile itself.
    :param time_scale: simulated seconds per real second; with 60 a run of 20 s takes a third of a second.
    :raises SimulatorError: it did not start; the message says why.
    """
    given = profile if isinstance(profile, str) else json.dumps(profile)
    with tempfile.TemporaryDirectory(prefix="backstop-simulator-") as folder:
        port_file, complaints = Path(folder) / "port", Path(folder) / "stderr"
        command = [
            sys.executable, "-P", "-m", "backstop.simulator", "--port-file", str(port_file), "--profile", given,
            "--time-scale", str(time_scale), "--seed", str(seed), "--api-key", api_key,
        ]  # fmt: skip
        with (
            complaints.open("w") as told,
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told) as process,  # noqa: S603 - ours
        ):
            try:
                yield RunningSimulator(_port(process, port_file, complaints), api_key)
            finally:
                _end(process)


def _port(process: subprocess.Popen[bytes], port_file: Path, complaints: Path) -> int:
    until_s = time.monotonic() + START_S
    while not port_file.exists():
        if process.poll() is not None:
            raise SimulatorError(
                f"the simulator ended with code {process.returncode}: {complaints.read_text().strip()}"
            )
        if time.monotonic() > until_s:
            raise SimulatorError(f"the simulator did not listen within {START_S:g} s: {complaints.read_text().strip()}")
        time.sleep(START_CHECK_S)
    return int(port_file.read_text())


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
