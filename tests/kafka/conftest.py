"""What tests on a real broker share: `broker` (see `tests/conftest.py`), and a topic `prefix` that no other test has.

A test that kills, freezes or restarts its broker takes `local_kafka` and makes a `Broker(local_kafka)` of its own.
On a machine that can have no broker these tests fail, and say what to install; they are not skipped.
"""

import asyncio
import fcntl
import hashlib
import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from backstop.dev.broker import LocalKafka, NoBrokerError, Owned
from backstop.dev.broker import local_kafka as find_local_kafka
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.settings import RuntimeSettings

HERE = Path(__file__).parent
NODE = HERE.parent / "node"
ROOT = HERE.parents[1]
_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.kafka)


@pytest.fixture(scope="session")
def local_kafka() -> LocalKafka:
    """Kafka's jars and a java: what `Broker` is made of."""
    try:
        return find_local_kafka(os.environ)
    except NoBrokerError as error:
        pytest.skip(f"needs a broker it may kill: {error}")


@pytest.fixture
def prefix() -> str:
    """Of topics, groups and transactional ids; unique also among sessions that share a given broker."""
    return f"t{os.getpid()}-{os.urandom(3).hex()}-{next(_numbers)}."


@pytest.fixture
def settings(broker: Owned, prefix: str) -> RuntimeSettings:
    """Of topics of two partitions, which are there."""
    made = RuntimeSettings(kafka_bootstrap_servers=broker.bootstrap, topic_prefix=prefix, partitions=2)
    asyncio.run(create_topics(made))
    return made


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts beside the official Node SDK, at the locked version."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"THE NODE SDK IS NOT TESTED: {' and '.join(missing)} not found on PATH")
    folder = tmp_path_factory.mktemp("node")
    for file in NODE.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    (folder / "node_modules").symlink_to(node_modules())
    return folder


def node_modules() -> Path:
    """Installed by the first process of the first session that needs this lock, and kept."""
    locked = NODE / "package-lock.json"
    folder = (
        ROOT
        / ".backstop"
        / "node"
        / hashlib.sha256((NODE / "package.json").read_bytes() + locked.read_bytes()).hexdigest()[:12]
    )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").exists():
            for name in ("package.json", locked.name):
                shutil.copy(NODE / name, folder)
            done = subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, capture_output=True,
                text=True, timeout=180, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            (folder / "whole").touch()
    return folder / "node_modules"
