"""The server as a process: its flags, its port file, its end, and what a SIGKILL leaves behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import wait_until


@contextmanager
def _process(tmp_path: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port_file = tmp_path / "port"
    command = [sys.executable, "-P", "-m", "simulator", "--port", "0", "--port-file", str(port_file), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: port_file.exists() or process.poll() is not None, 10, "the port file")
        yield process, f"http://127.0.0.1:{port_file.read_text() if port_file.exists() else 0}"
    finally:
        process.kill()
        process.communicate()


def _create(url: str, fault: str = "") -> str:
    metadata = {"job": "job_1", "attempt": "1", **({"sim_fault": fault} if fault else {})}
    body = json.dumps({"model": "m", "input": "x", "background": True, "metadata": metadata}).encode()
    headers = {"authorization": "Bearer sk-one", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/responses", body, headers)
    with urllib.request.urlopen(request, timeout=5) as answer:
        created: str = json.load(answer)["id"]
        return created


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_ends_quickly_when_asked(tmp_path: Path, number: signal.Signals) -> None:
    with _process(tmp_path, "--api-key", "sk-one", "--profile", "demo") as (process, url):
        assert process.stdout is not None
        assert process.stdout.readline() == f"simulator listening on {url}\n"
        assert _create(url, "run_stuck_queued").startswith("resp_")
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(5) == 0
        assert time.monotonic() - began < 2
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
            wait_until(lambda: _accepted(url) == 1, 10, "the create")
            began = time.monotonic()
            process.terminate()
            assert process.wait(5) == 0
            assert time.monotonic() - began < 2
        finally:
            client.kill()
            client.wait()


def _accepted(url: str) -> int:
    with urllib.request.urlopen(f"{url}/sim/stats", timeout=5) as answer:
        count: int = json.load(answer)["creates_accepted"]
        return count


def test_a_sigkill_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    folder = tmp_path / "ledgers"
    with _process(tmp_path, "--api-key", "sk-one", "--ledger-dir", str(folder)) as (process, url):
        created = [_create(url) for _ in range(5)]
        os.kill(process.pid, signal.SIGKILL)
        process.wait(5)
    lines = [json.loads(line) for line in (folder / "creates.jsonl").read_text().splitlines()]
    assert [line["response"] for line in lines] == created


def test_connections_are_refused_while_an_incident_says_so(tmp_path: Path) -> None:
    with _process(tmp_path, "--api-key", "sk-one", "--time-scale", "10") as (_, url):
        _post(f"{url}/sim/incident", {"answer": "refused", "calls": "all", "for_s": 10})
        wait_until(lambda: _refuses(url), 5, "a refused connection")
        wait_until(lambda: _accepted(url) == 0, 5, "the end of the incident")
        assert _create(url).startswith("resp_")
        created = _create(url)
        # A crash: what runs hangs for ever, and the server is away for a moment.
        assert _post(f"{url}/sim/restart", {"for_s": 10}) == {"stuck": 2}
        wait_until(lambda: _refuses(url), 5, "a refused connection")
        wait_until(lambda: _accepted(url) == 2, 5, "the end of the restart")
        assert _create(url) != created


def test_controls_can_be_reached_while_connections_are_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        control_port = taken.getsockname()[1]
    with _process(tmp_path, "--api-key", "sk-one", "--control-port", str(control_port)) as (_, url):
        controls = f"http://127.0.0.1:{control_port}/sim/incident"
        assert _post(controls, {"answer": "refused", "calls": "all"}) == {"incident": 1}
        wait_until(lambda: _refuses(url), 5, "a refused connection")
        request = urllib.request.Request(controls, method="DELETE")
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert json.load(answer) == {"incidents": []}
        wait_until(lambda: _accepted(url) == 0, 5, "the end of the incident")


def _refuses(url: str) -> bool:
    try:
        _accepted(url)
    except urllib.error.URLError as error:
        return isinstance(error.reason, ConnectionRefusedError)
    return False


def _post(url: str, body: dict[str, object]) -> dict[str, object]:
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=5) as answer:
        found: dict[str, object] = json.load(answer)
        return found


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--profile", "mild"), "neither a preset"),
        (("--profile", '{"rates": {"hook_lost": 7}}'), "rates.hook_lost must be 0 to 1"),
        (("--webhook-url", "http://x"), "come in pairs"),
        (("--webhook-url", "http://x", "--webhook-secret", "secret"), "whsec_"),
        (("--time-scale", "0"), "time_scale must be above 0"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_reason(tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    with _process(tmp_path, *flags) as (process, _):
        assert process.wait(5) == 2
        assert process.stderr is not None
        assert words in process.stderr.read()


def test_a_profile_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{"base": "demo", "rates": {"hook_lost": 0.5}, "retention_s": 3600}')
    with (
        _process(tmp_path, "--profile", str(path)) as (_, url),
        urllib.request.urlopen(f"{url}/sim/faults", timeout=5) as answer,
    ):
        profile = json.load(answer)["profile"]
    assert (profile["rates"]["hook_lost"], profile["rates"]["hook_twice"], profile["retention_s"]) == (0.5, 0.1, 3600)
