"""Files that hold prompts, results or keys are private to their owner, whatever the umask is."""

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from backstop.runtime.process.files import make_private
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import SECRET

ROOT = Path(__file__).parents[2]
CREATE = {"model": "m", "input": "a secret", "background": True}
OURS = ("BACKSTOP_", "OPENAI_", "KAFKA_")


def open_to_others(folder: Path) -> list[str]:
    found = [folder, *folder.rglob("*")]
    return [
        f"{path} {stat.filemode(path.lstat().st_mode)}"
        for path in found
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    ]


async def _served(folder: Path) -> None:
    # Without a broker the receiver stores a request and then refuses it.
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(OURS)},
        "BACKSTOP_DATA_DIR": str(folder / "data"), "BACKSTOP_PORT": "0",
        "BACKSTOP_PORT_FILE": str(folder / "data" / "port"), "BACKSTOP_DEVELOPMENT": "true",
        "BACKSTOP_WEBHOOK_SECRETS": SECRET, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    }  # fmt: skip
    old = os.umask(0)
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "backstop.cli", "serve"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
        )
    finally:
        os.umask(old)
    try:
        port_file = folder / "data" / "port"
        await eventually(port_file.exists, 60, "the receiver to listen")
        url = f"http://127.0.0.1:{port_file.read_text()}/v1/responses"
        async with aiohttp.ClientSession() as session, session.post(url, json=CREATE) as answer:
            assert answer.status == 503
    finally:
        process.terminate()
        process.wait(20)


def test_blobs_and_all_else_that_a_process_writes_are_private(tmp_path: Path) -> None:
    asyncio.run(_served(tmp_path))
    assert open_to_others(tmp_path / "data") == []


def test_a_command_makes_private_files(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"umask 000; exec {sys.executable} -P -m backstop.cli keys create --tenant acme"],
        cwd=ROOT, env={**os.environ, "BACKSTOP_DATA_DIR": str(tmp_path / "a" / "data")}, capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert open_to_others(tmp_path / "a") == []


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o750])
def test_a_folder_that_stood_open_is_closed(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    make_private(folder)
    assert open_to_others(folder) == []


def test_a_folder_that_is_meant_for_everybody_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    make_private(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777
