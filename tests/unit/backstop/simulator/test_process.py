"""The server as a process: its flags, its port file, its end, and what a SIGKILL leaves behind."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backstop.dev.ports import Ports
from tests.support.waiting import wait_until

START_S = 60.0
"""A start takes a second; on a busy machine it may take many."""

END_S = 30.0
"""Far less than what the server would wait for if it waited: a stall lasts for a minute, a stuck run for ever."""

ANSWER_S = 30.0
NEVER_S = 1_000_000.0


@contextmanager
def _process(tmp_path: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port_file = tmp_path / "port"
    command = [sys.executable, "-P", "-m", "backstop.simulator", "--port", "0", "--port-file", str(port_file), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: port_file.exists() or process.poll() is not None, START_S, "the port file")
        yield process, f"http://127.0.0.1:{port_file.read_text() if port_file.exists() else 0}"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def control_port(ports: Ports) -> int:
    return ports.draw()


def _create(url: str, fault: str = "") -> str:
    metadata = {"job": "job_1", "attempt": "1", **({"sim_fault": fault} if fault else {})}
    body = json.dumps({"model": "m", "input": "x", "background": True, "metadata": metadata}).encode()
    headers = {"authorization": "Bearer sk-one", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/responses", body, headers)
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        created: str = json.load(answer)["id"]
        return created


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_ends_quickly_when_asked(tmp_path: Path, number: signal.Signals) -> None:
    with _process(tmp_path, "--api-key", "sk-one", "--profile", "demo") as (process, url):
        assert process.stdout is not None
        assert process.stdout.readline() == f"simulator listening on {url}\n"
        assert _create(url, "run_stuck_queued").startswith("resp_")
        process.send_signal(number)
        assert process.wait(END_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_stalled_client_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with _process(tmp_path, "--api-key", "sk-one") as (process, url):
        metadata = {"sim_fault": "create_accept_stall"}
        body = json.dumps({"model": "m", "input": "x", "background": True, "metadata": metadata})
        code = (
            "import sys, urllib.request as u; "
            "u.urlopen(u.Request(sys.argv[1], sys.argv[2].encode(), {'authorization': 'Bearer sk-one'}))"
        )
        client = subprocess.Popen([sys.executable, "-c", code, f"{url}/v1/responses", body], stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: _accepted(url) == 1, START_S, "the create")
            process.terminate()
            assert process.wait(END_S) == 0
        finally:
            client.kill()
            client.wait()


def _accepted(url: str) -> int:
    with urllib.request.urlopen(f"{url}/sim/stats", timeout=ANSWER_S) as answer:
        count: int = json.load(answer)["creates_accepted"]
        return count


def test_a_sigkill_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    folder = tmp_path / "ledgers"
    with _process(tmp_path, "--api-key", "sk-one", "--ledger-dir", str(folder)) as (process, url):
        created = [_create(url) for _ in range(5)]
        os.kill(process.pid, signal.SIGKILL)
        process.wait(END_S)
    lines = [json.loads(line) for line in (folder / "creates.jsonl").read_text().splitlines()]
    assert [line["response"] for line in lines] == created


def test_connections_are_refused_while_an_incident_says_so(tmp_path: Path, control_port: int) -> None:
    """The control port ends the incident: a timed incident could end before the test's first request."""
    control = f"http://127.0.0.1:{control_port}/sim"
    with _process(tmp_path, "--api-key", "sk-one", "--control-port", str(control_port)) as (_, url):
        assert _post(f"{control}/incident", {"answer": "refused", "calls": "all"}) == {"incident": 1}
        wait_until(lambda: _refuses(url), END_S, "a refused connection")
        assert _end_incidents(control) == {"incidents": []}
        wait_until(lambda: _accepted(url) == 0, END_S, "the end of the incident")
        first, second = _create(url), _create(url)
        # A crash: what runs hangs for ever, and the server is away for a moment.
        assert _post(f"{control}/restart", {"for_s": NEVER_S}) == {"stuck": 2}
        wait_until(lambda: _refuses(url), END_S, "a refused connection")
        assert _end_incidents(control) == {"incidents": []}
        wait_until(lambda: _accepted(url) == 2, END_S, "the end of the restart")
        assert _create(url) not in (first, second)


def test_refused_connections_are_taken_again_when_the_time_is_over(tmp_path: Path, control_port: int) -> None:
    control = f"http://127.0.0.1:{control_port}/sim"
    with _process(tmp_path, "--api-key", "sk-one", "--control-port", str(control_port)) as (_, url):
        _post(f"{control}/incident", {"answer": "refused", "calls": "all", "for_s": 0.2})
        wait_until(lambda: _get(f"{control}/incident") == {"incidents": []}, END_S, "the end of the incident")
        wait_until(lambda: _accepted(url) == 0, END_S, "an answer")


def _refuses(url: str) -> bool:
    try:
        _accepted(url)
    except urllib.error.URLError as error:
        return isinstance(error.reason, ConnectionRefusedError)
    return False


def _end_incidents(control: str) -> dict[str, object]:
    return _get(urllib.request.Request(f"{control}/incident", method="DELETE"))


def _get(request: str | urllib.request.Request) -> dict[str, object]:
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def _post(url: str, body: dict[str, object]) -> dict[str, object]:
    return _get(urllib.request.Request(url, json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--profile", "mild"), "neither a preset"),
        (("--profile", '{"rates": {"webhook_lost": 7}}'), "rates.webhook_lost must be 0 to 1"),
        (("--webhook-url", "http://x"), "come in pairs"),
        (("--webhook-url", "http://x", "--webhook-secret", "secret"), "whsec_"),
        (("--time-scale", "0"), "time_scale must be above 0"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_reason(tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    with _process(tmp_path, *flags) as (process, _):
        assert process.wait(END_S) == 2
        assert process.stderr is not None
        assert words in process.stderr.read()


def test_a_profile_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{"base": "demo", "rates": {"webhook_lost": 0.5}, "retention_s": 3600}')
    with (
        _process(tmp_path, "--profile", str(path)) as (_, url),
        urllib.request.urlopen(f"{url}/sim/faults", timeout=ANSWER_S) as answer,
    ):
        profile = json.load(answer)["profile"]
    assert (profile["rates"]["webhook_lost"], profile["rates"]["webhook_twice"], profile["retention_s"]) == (
        0.5,
        0.1,
        3600,
    )
