"""One Kafka node in a container, where a Docker engine answers. Uses only the `docker` command."""

import hashlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backstop.dev.broker import processes, ready
from backstop.dev.broker.errors import BrokerFailedError, BrokerMissing
from backstop.dev.broker.node import DEVELOPMENT, HOST, NODE_ID, draw_ports

WAY = "Docker"
IMAGE = "apache/kafka:4.1.1@sha256:0bc1bb2478f45b6cea78864df86acdc11e8df2c5172477819a4d12942cbe5d40"
PROBE_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 60.0
PULL_TIMEOUT_S = 600.0
START_TIMEOUT_S = 90.0
CLIENT_PORT = 9092  # inside the container
CONTROLLER_PORT = 9093


@dataclass(frozen=True, slots=True)
class Engine:
    """A Docker engine that answered. Its command runs with `environment` (DOCKER_HOST and the like)."""

    docker: str
    version: str
    environment: Mapping[str, str]

    def run(self, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """The command's output.

        :raises BrokerFailedError: the command failed; contains its error output.
        """
        command = [self.docker, *arguments]
        try:
            done = processes.capture(command, timeout_s, self.environment)
        except subprocess.TimeoutExpired:
            raise BrokerFailedError(f"`docker {arguments[0]}` did not end within {timeout_s:g} s") from None
        if done.returncode != 0:
            raise BrokerFailedError(f"`docker {arguments[0]}` failed: {done.stderr.strip()[-2000:]}")
        return done.stdout.strip()


def find(environment: Mapping[str, str]) -> Engine | BrokerMissing:
    """Ask the engine for its version, with a short timeout: an engine that hangs counts as missing."""
    remedy = "install Docker (https://docs.docker.com/engine/install/) and start its engine"
    docker = shutil.which("docker", path=environment.get("PATH", ""))
    if docker is None:
        return BrokerMissing(WAY, "there is no docker on the PATH", remedy)
    try:
        version = Engine(docker, "", environment).run(
            "info", "--format", "{{.ServerVersion}}", timeout_s=PROBE_TIMEOUT_S
        )
    except (BrokerFailedError, OSError) as error:
        return BrokerMissing(WAY, f"{docker} is installed, but no engine answers ({_last_line(str(error))})", remedy)
    if not version:  # some versions print nothing and exit with 0 when the engine is away
        return BrokerMissing(WAY, f"{docker} is installed, but no engine answers", remedy)
    return Engine(docker, version, environment)


def container_name(folder: Path) -> str:
    """Derived from the state folder, so that two checkouts never share a container."""
    return f"backstop-kafka-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}"


def container_settings(port: int) -> dict[str, str]:
    """The image's environment variables for one development node that clients on this machine reach at `port`."""
    lines = {
        **DEVELOPMENT,
        "controller.quorum.voters": f"{NODE_ID}@localhost:{CONTROLLER_PORT}",
        "listeners": f"CLIENT://:{CLIENT_PORT},CONTROLLER://:{CONTROLLER_PORT}",
        "advertised.listeners": f"CLIENT://{HOST}:{port}",
        "inter.broker.listener.name": "CLIENT",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": "/var/lib/kafka/data",
    }
    return {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in lines.items()}


def run_command(name: str, port: int) -> Sequence[str]:
    """The arguments of `docker run`: detached, on this machine's loopback only, its data in a volume of its own."""
    settings = [part for name, value in container_settings(port).items() for part in ("--env", f"{name}={value}")]
    return (
        *("run", "--detach", "--name", name, "--label", "app=backstop"),
        *("--publish", f"{HOST}:{port}:{CLIENT_PORT}", "--volume", f"{name}:/var/lib/kafka/data"),
        *("--env", "KAFKA_HEAP_OPTS=-Xmx512m", *settings, IMAGE),
    )


def start(engine: Engine, name: str, *, port: int | None = None) -> str:
    """Start the container on the data of an earlier one, if any, and return the bootstrap address.

    The advertised port is part of the container's settings, so a container is never restarted: a new one is created on
    its volume.
    """
    port = port or draw_ports().client
    remove(engine, name)
    try:
        engine.run(*run_command(name, port), timeout_s=PULL_TIMEOUT_S)
        bootstrap = f"{HOST}:{port}"
        if not processes.until(lambda: ready.answers(bootstrap) or not is_running(engine, name), START_TIMEOUT_S):
            raise BrokerFailedError(f"Kafka in container {name} did not answer within {START_TIMEOUT_S:g} s")
        if not is_running(engine, name):
            raise BrokerFailedError(f"Kafka in container {name} ended:\n{engine.run('logs', '--tail', '30', name)}")
    except BaseException:
        remove(engine, name)
        raise
    return bootstrap


def is_running(engine: Engine, name: str) -> bool:
    try:
        return engine.run("inspect", "--format", "{{.State.Running}}", name) == "true"
    except BrokerFailedError:
        return False


def stop(engine: Engine, name: str) -> None:
    """Stop and remove the container; its volume stays."""
    engine.run("stop", "--time", "15", name)
    remove(engine, name)


def remove(engine: Engine, name: str) -> None:
    """Remove the container, running or not. No error where there is none."""
    engine.run("rm", "--force", name)


def remove_data(engine: Engine, name: str) -> None:
    engine.run("volume", "rm", "--force", name)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
