"""docker-compose.kafka.yml and the image: read as what they promise, and by Docker Compose itself where it is here."""

import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from backstop.cli.main import SUBCOMMANDS
from backstop.dev.broker import docker
from backstop.outgoing.settings import OutgoingSettings
from backstop.readmodel.settings import ProjectionSettings
from backstop.runtime.settings import RuntimeSettings
from receiver.settings import ReceiverSettings
from streams.settings import StreamSettings
from tests.support.compose_yaml import load

ROOT = Path(__file__).resolve().parents[4]
COMPOSE = ROOT / "docker-compose.kafka.yml"
KAFKA = ("kafka-1", "kafka-2", "kafka-3")
BACKSTOP = ("topics", "keys", "receiver", "worker", "projection", "outgoing", "simulator")
WATCH = ("prometheus", "grafana")


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return load(COMPOSE.read_text())["services"]


def test_docker_compose_accepts_the_file() -> None:
    command = shutil.which("docker")
    if command is None or subprocess.run([command, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("NOT VALIDATED: the docker compose plugin is not installed on this machine")
    done = subprocess.run(
        [command, "compose", "-f", str(COMPOSE), "config", "-q"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_whole_system_is_there(services: dict[str, Any]) -> None:
    assert tuple(services) == (*KAFKA, *BACKSTOP, *WATCH)


def test_three_nodes_keep_three_copies_and_two_must_have_each_record(services: dict[str, Any]) -> None:
    told = [services[name]["environment"] for name in KAFKA]
    assert [one["KAFKA_NODE_ID"] for one in told] == ["1", "2", "3"]
    for one in told:
        assert one["KAFKA_DEFAULT_REPLICATION_FACTOR"] == "3"
        assert one["KAFKA_MIN_INSYNC_REPLICAS"] == "2"
        assert one["KAFKA_TRANSACTION_STATE_LOG_MIN_ISR"] == "2"
        assert one["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    for name in KAFKA:
        assert services[name]["image"] == docker.IMAGE
        assert services[name]["healthcheck"]["test"][0] == "CMD"
    assert len({one["KAFKA_ADVERTISED_LISTENERS"] for one in told}) == 3
    assert len({volume for name in KAFKA for volume in services[name]["volumes"]}) == 3


def test_topics_are_made_once_all_nodes_are_healthy_and_before_any_reader_starts(services: dict[str, Any]) -> None:
    assert services["topics"]["command"] == ["backstop", "topics", "create"]
    assert services["topics"]["depends_on"] == {name: {"condition": "service_healthy"} for name in KAFKA}
    done = {"condition": "service_completed_successfully"}
    for name in ("worker", "projection", "outgoing"):
        assert services[name]["depends_on"] == {"topics": done}
    assert services["receiver"]["depends_on"] == {"topics": done, "keys": done}


def test_a_receiver_beyond_loopback_finds_a_key(services: dict[str, Any]) -> None:
    assert services["keys"]["command"][:3] == ["backstop", "keys", "create"]
    assert "--if-none" in services["keys"]["command"]


def test_outgoing_webhooks_are_delivered_only_where_they_are_asked_for(services: dict[str, Any]) -> None:
    assert services["outgoing"]["profiles"] == ["webhooks"]
    assert [name for name in services if "profiles" in services[name]] == ["outgoing", *WATCH]
    keys = {services[name]["environment"]["BACKSTOP_OUTGOING_KEYS"] for name in ("receiver", "outgoing")}
    assert keys == {"${BACKSTOP_OUTGOING_KEYS:-}"}


def test_every_process_of_ours_may_write_one_volume_and_gain_nothing(services: dict[str, Any]) -> None:
    for name in BACKSTOP:
        service = services[name]
        assert service["read_only"] is True
        assert service["volumes"][0] == "data:/data"
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["cap_drop"] == ["ALL"]


def test_each_worker_that_is_scaled_up_has_a_store_of_its_own_and_shares_the_blobs(services: dict[str, Any]) -> None:
    worker = services["worker"]
    assert "container_name" not in worker, "a name of its own would forbid a second container"
    assert "ports" not in worker
    shared, own = worker["volumes"]
    assert shared == "data:/data"
    assert own == worker["environment"]["BACKSTOP_DATA_DIR"] == "/stores", (
        "a path alone is a new volume for each container"
    )
    assert worker["environment"]["BACKSTOP_BLOB_DIR"] == "/data/blobs"
    assert "BACKSTOP_WORKER_INSTANCE_ID" not in worker["environment"], "two workers may not have one name"
    others = [services[name] for name in BACKSTOP if name not in {"worker", "simulator"}]
    assert {other["environment"]["BACKSTOP_DATA_DIR"] for other in others} == {"/data"}
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    assert "install -d -o backstop -g backstop -m 0750 /data /stores" in dockerfile, (
        "a volume takes its owner from the image"
    )


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("topics", [RuntimeSettings]),
        ("receiver", [ReceiverSettings, ProjectionSettings]),
        ("worker", [StreamSettings]),
        ("projection", [ProjectionSettings]),
        ("outgoing", [OutgoingSettings]),
    ],
)
def test_each_variable_is_a_setting_that_the_process_reads(
    services: dict[str, Any], name: str, kinds: list[type[RuntimeSettings]]
) -> None:
    declared = {f"BACKSTOP_{field}".upper() for kind in kinds for field in kind.model_fields}
    told = {variable for variable in services[name]["environment"] if variable.startswith("BACKSTOP_")}
    assert told <= declared
    assert "BACKSTOP_REPLICATION_FACTOR" in told


def test_each_command_is_one_that_the_image_has(services: dict[str, Any]) -> None:
    for name in BACKSTOP:
        program, *words = services[name]["command"]
        if program == "backstop":
            assert words[0] in SUBCOMMANDS
        else:
            assert (program, words[0]) == ("python", "-m")
            assert find_spec(f"{words[1]}.__main__") is not None


def test_prometheus_scrapes_each_process_where_it_shows_its_metrics(services: dict[str, Any]) -> None:
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    asked = {job["dns_sd_configs"][0]["names"][0]: job["dns_sd_configs"][0]["port"] for job in jobs}
    environments = {name: services[name]["environment"] for name in asked}
    assert asked == {
        "receiver": int(environments["receiver"]["BACKSTOP_ADMIN_PORT"]),
        "worker": int(environments["worker"]["BACKSTOP_HEALTH_PORT"]),
        "projection": int(environments["projection"]["BACKSTOP_READMODEL_HEALTH_PORT"]),
        "outgoing": int(environments["outgoing"]["BACKSTOP_OUTGOING_HEALTH_PORT"]),
    }
    assert environments["receiver"]["BACKSTOP_ADMIN_HOST"] == "0.0.0.0"
    assert {environments[name]["BACKSTOP_HEALTH_HOST"] for name in asked} == {"0.0.0.0"}


def test_only_loopback_ports_are_published(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 7
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_version_of_kafka_is_the_same_in_containers_and_on_the_jvm(services: dict[str, Any]) -> None:
    assert services["kafka-1"]["image"] == docker.IMAGE
    assert "<kafka.version>4.1.1</kafka.version>" in (ROOT / "backstop/dev/broker/pom.xml").read_text()


def test_the_image_runs_as_an_unprivileged_user_from_locked_packages() -> None:
    lines = (ROOT / "deploy/Dockerfile").read_text()
    last_stage = lines[lines.rindex("\nFROM ") :]
    assert "\nUSER backstop\n" in last_stage
    assert "--uid 10001" in last_stage
    assert lines.count("--require-hashes") == lines.count("pip install --only-binary") == 2


def production(part: str) -> str:
    script = ROOT / "deploy/production_requirements.py"
    return subprocess.run([sys.executable, script, part], capture_output=True, text=True, check=True).stdout


def names(requirements: str) -> set[str]:
    return {line.split("==")[0] for line in requirements.splitlines() if "==" in line and not line.startswith(" ")}


def needed_here(root: str) -> set[str]:
    """What the installed packages say they need, all the way down, on this machine."""
    seen: set[tuple[str, str]] = set()
    waiting = [(root, "")]
    while waiting:
        name, extra = waiting.pop()
        for line in metadata.requires(name) or []:
            one = Requirement(line)
            if one.marker is not None and not one.marker.evaluate({"extra": extra}):
                continue
            new = {(canonicalize_name(one.name), each) for each in ("", *one.extras)} - seen
            seen |= new
            waiting += new
    return {name for name, _ in seen}


def test_the_image_gets_all_that_backstop_needs_and_no_tool_of_developers() -> None:
    got = names(production("runtime"))
    assert needed_here("backstop-jobs") <= got
    assert not got & {"pytest", "mypy", "ruff", "hypothesis", "testcontainers", "hatchling"}
    assert "hatchling" in names(production("build"))


def test_each_package_of_the_image_has_the_hashes_of_the_lock() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    for entry in production("runtime").split("\n    # via")[0:-1]:
        assert "--hash=sha256:" in entry
    assert set(production("runtime").splitlines()) <= set(lock.splitlines())
