"""Whatever is refused before anything is asked ends with exit code 2 and a sentence, never with a traceback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from backstop.cli.main import SUBCOMMANDS, app, main

BACKSTOP = str(Path(sys.executable).with_name("backstop"))


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every command below `command`, groups included."""
    yield path
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            yield from commands(command.get_command(None, name), (*path, name))


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stand in a folder that holds one file that is no JSON, with no setting of ours."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("{]")
    for name in list(os.environ):
        if name.startswith(("BACKSTOP_", "KAFKA_", "OPENAI_")):
            monkeypatch.delenv(name)


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Call `backstop`; what it said on stderr, once it ended with 2."""
    monkeypatch.setattr(sys, "argv", ["backstop", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert "Traceback" not in said
    return said


ALL = sorted(commands(get_command(app)))


def test_the_tree_of_commands_is_known() -> None:
    assert {path[0] for path in ALL if path} == set(SUBCOMMANDS)
    assert ("jobs", "submit") in ALL


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_an_unknown_option_of_any_command_is_refused(monkeypatch, capsys, path: tuple[str, ...]) -> None:
    told = refused(monkeypatch, capsys, *path, "--no-such-option")
    # The simulator reads its own flags.
    assert ("unrecognized arguments" if path == ("simulator",) else "No such option") in told


@pytest.mark.parametrize(
    "line",
    [
        "nosuch", "demo extra", "demo --jobs 0",
        "demo --partitions 0", "demo --rate 0", "demo --keep-logs file", "demo --keep-logs file/x",
         "dev --port 70000", "dev --port -1", "dev --state-dir file", "dev --state-dir file/x", "dev --workers 99",
        "jobs show", "jobs show a --url ftp://x", "jobs show a --url nothing", "jobs show a -o xml",
        "jobs list --limit 0",
        "jobs list --status nonsense", "jobs list --url http://127.0.0.1:1", "jobs submit nosuch.json",
        "jobs submit file",
        "jobs submit -m x", "jobs submit -m x -i y --timeout-s -1", "jobs submit -m x -i y --retries-max -1",
        "audit timeline", "audit export out", "audit import nosuch", "audit import file",
        "dlq list --since garbage", "dlq list --reason nosuch", "dlq list --topic nosuch", "dlq retry", "dlq drop x",
        "keys create", "keys create --tenant BAD!", "keys create --tenant a --scopes nosuch",
        "keys create --tenant a --expires-in soon",
        "keys create --tenant a --addresses here", "broker nosuch", "broker up --state-dir file", "settings -o xml",
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(monkeypatch, capsys, line: str) -> None:
    assert refused(monkeypatch, capsys, *line.split())


@pytest.mark.parametrize("command", ["demo", "dev"])
@pytest.mark.parametrize("profile", ["nosuch", '{"bad', '{"base": "nope"}', '{"rates": {"nosuch": 1}}', "file"])
def test_a_fault_profile_is_refused_before_a_broker_is_started(monkeypatch, capsys, command: str, profile: str) -> None:
    assert "--faults" in refused(monkeypatch, capsys, command, "--faults", profile)


@pytest.mark.parametrize(
    ("line", "variable", "value"),
    [
        ("serve", "BACKSTOP_PORT", "x"),
        ("serve", "BACKSTOP_LOG_LEVEL", "loud"),
        ("worker", "BACKSTOP_PARTITIONS", "0"),
        ("worker", "OPENAI_API_KEY", ""),
        ("projection", "BACKSTOP_DATABASE_URL", "mysql://x"),
        ("outgoing", "BACKSTOP_OUTGOING_KEYS", "x"),
        ("outgoing", "BACKSTOP_OUTGOING_KEYS", ""),
        ("outgoing", "BACKSTOP_OUTGOING_PORTS", "0"),
        ("topics check", "BACKSTOP_TOPIC_PREFIX", "a b"),
        ("topics create", "BACKSTOP_PARTITIONS", "x"),
        ("readmodel digest", "BACKSTOP_DATABASE_URL", "mysql://x"),
        ("settings", "BACKSTOP_PARTITIONS", "x"),
        ("keys list", "BACKSTOP_KEYS_FILE", "file"),
        ("audit verify", "BACKSTOP_PARTITIONS", "x"),
        ("dlq list", "BACKSTOP_PARTITIONS", "x"),
        ("jobs list", "BACKSTOP_URL", "x"),
        ("dev", "BACKSTOP_PARTITIONS", "x"),
        ("dev", "KAFKA_BOOTSTRAP_SERVERS", "broker.example:9092"),
        ("dev --openai", "OPENAI_API_KEY", ""),
        ("broker up", "KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"),
    ],
)
def test_wrong_settings_are_refused(monkeypatch, capsys, line: str, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    said = refused(monkeypatch, capsys, *line.split())
    assert "no Kafka broker answers" not in said, "what is wrong here is known before a broker is asked"


def test_the_version_is_told() -> None:
    done = subprocess.run([BACKSTOP, "--version"], capture_output=True, text=True, timeout=110, check=True)
    assert done.stdout == "backstop 0.1.0\n"


@pytest.mark.parametrize(
    ("typed", "offered"), [("backstop jo", ["jobs"]), ("backstop jobs s", ["submit", "show", "stream"])]
)
def test_bash_completes_what_its_own_script_asks_for(typed: str, offered: list[str]) -> None:
    script = subprocess.run(
        [BACKSTOP],
        env={**os.environ, "_BACKSTOP_COMPLETE": "source_bash"},
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    ).stdout
    words = typed.split()
    asked = f"""{script}
COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1}
_backstop_completion {BACKSTOP}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=110, check=True)
    assert done.stdout.split() == offered
