"""What Docker is asked for. No engine is needed: a stand-in for its command writes down what it was told."""

import re
from pathlib import Path

import pytest

from backstop.dev.broker import BrokerFailedError, docker
from backstop.dev.broker.docker import Engine
from backstop.dev.broker.errors import BrokerMissing


def machine(folder: Path, body: str) -> dict[str, str]:
    (folder / "bin").mkdir()
    command = folder / "bin" / "docker"
    command.write_text(f'#!/bin/sh\necho "$@" >> {folder}/told\n{body}\n')
    command.chmod(0o755)
    return {"PATH": str(folder / "bin")}


def found(environment: dict[str, str]) -> Engine:
    engine = docker.find(environment)
    assert isinstance(engine, Engine), engine
    return engine


def test_an_engine_that_answers_is_found_with_its_version(tmp_path: Path) -> None:
    assert found(machine(tmp_path, "echo 28.0.1")).version == "28.0.1"


@pytest.mark.parametrize(
    "body", ["echo 'Cannot connect to the Docker daemon' >&2; exit 1", "echo 'Cannot connect to the Docker daemon' >&2"]
)
def test_a_docker_command_without_an_engine_is_no_way(tmp_path: Path, body: str) -> None:
    missing = docker.find(machine(tmp_path, body))
    assert isinstance(missing, BrokerMissing)
    assert "no engine answers" in missing.reason


def test_a_container_is_on_loopback_only_with_the_pinned_image_and_a_volume_of_its_own() -> None:
    command = " ".join(docker.run_command("backstop-kafka-1", 20_500))
    assert "--publish 127.0.0.1:20500:9092 " in command
    assert "--volume backstop-kafka-1:/var/lib/kafka/data " in command
    assert "--env KAFKA_ADVERTISED_LISTENERS=CLIENT://127.0.0.1:20500 " in command
    assert "--env KAFKA_AUTO_CREATE_TOPICS_ENABLE=false " in command
    assert re.search(r" apache/kafka:4\.1\.1@sha256:[0-9a-f]{64}$", command)


def test_two_state_folders_have_two_containers_and_one_has_always_the_same(tmp_path: Path) -> None:
    names = [docker.container_name(tmp_path / one) for one in ("left", "right", "left/../left")]
    assert names[0] == names[2] != names[1]


def test_a_container_that_ends_at_once_is_told_with_its_log_and_taken_away(tmp_path: Path) -> None:
    engine = found(
        machine(tmp_path, 'case $1 in info) echo 28;; inspect) echo false;; logs) echo "no space left";; esac')
    )
    with pytest.raises(BrokerFailedError, match=r"(?s)ended.*no space left"):
        docker.start(engine, "backstop-kafka-1")
    told = (tmp_path / "told").read_text().splitlines()
    assert told[-1] == "rm --force backstop-kafka-1"
    assert sum(line.startswith("run --detach --name backstop-kafka-1 ") for line in told) == 1


def test_an_image_that_cannot_be_pulled_is_told_in_docker_s_words(tmp_path: Path) -> None:
    body = "case $1 in info) echo 28;; run) echo 'pull access denied' >&2; exit 125;; esac"
    engine = found(machine(tmp_path, body))
    with pytest.raises(BrokerFailedError, match="pull access denied"):
        docker.start(engine, "backstop-kafka-1")
