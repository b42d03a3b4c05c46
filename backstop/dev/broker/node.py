"""The configuration of one Kafka node for development: its ports and its server.properties."""

import itertools
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from backstop.dev.broker.errors import BrokerError

HOST = "127.0.0.1"
NODE_ID = 1

# Below the ephemeral ports of Linux (from 32768), macOS and Windows (from 49152). Inside that range a client that
# redials a broker that is down can get the broker's port as its source port, connect to itself, and keep the restarted
# broker from binding.
PORTS_FIRST = 20_000
PORTS_COUNT = 12_000
PORTS_SPREAD = 7_417
"""`PORTS_COUNT` divided by the golden ratio: its multiples stay far apart."""
_draws = itertools.count()


@dataclass(frozen=True, slots=True)
class BrokerPorts:
    """Clients, or the proxy in front, connect to `client`. `direct` is always advertised as itself."""

    client: int
    direct: int
    controller: int


def draw_ports() -> BrokerPorts:
    """Three ports that were free a moment ago. Two brokers of one process never get the same ports.

    A port can't be reserved for a child process, so the caller must be ready to choose again.
    """
    with ExitStack() as held:
        return BrokerPorts(*(_free_port(held) for _ in range(3)))


def are_free(ports: BrokerPorts) -> bool:
    """Whether each port could be bound just now."""
    with ExitStack() as held:
        return all(_bind(held, port) for port in (ports.client, ports.direct, ports.controller))


def offset_of(pid: int) -> int:
    """Where in the range a process starts to choose. Processes that start one after the other, like those of one test
    run, start far apart, so a broker that is down for a moment finds its ports free at its restart.
    """
    return pid * PORTS_SPREAD % PORTS_COUNT


def _free_port(held: ExitStack) -> int:
    start = offset_of(os.getpid())
    for _ in range(PORTS_COUNT):
        port = PORTS_FIRST + (start + next(_draws)) % PORTS_COUNT
        if _bind(held, port):
            return port
    raise BrokerError(f"no free port from {PORTS_FIRST} to {PORTS_FIRST + PORTS_COUNT - 1}")


def _bind(held: ExitStack, port: int) -> bool:
    probe = held.enter_context(socket.socket())
    probe.setsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
    )  # as Kafka does: connections closed a moment ago don't matter
    try:
        probe.bind((HOST, port))
    except OSError:
        return False
    return True


# For development: one node can't replicate, and should not delay. The same for the JVM and Docker.
DEVELOPMENT: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": str(NODE_ID),
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",  # a topic that is not in the table of topics is an error
    "num.partitions": "1",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.coordinator.append.linger.ms": "0",  # a create waits for a commit, which by default waits 5 ms for others
    "group.initial.rebalance.delay.ms": "0",  # by default a new group waits three seconds for more members
    "group.min.session.timeout.ms": "500",  # a test of a lost worker may ask for less than the usual six seconds
    # A killed node can register again only after its old session has expired: nine seconds, by default.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "400",
    "message.max.bytes": "1048588",  # Kafka's own default, so that a record too large fails here too
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": "16777216",  # held on the heap from the start; the default is 128 MiB
}


def properties(data: Path, ports: BrokerPorts, *, advertised: str | None, overrides: Mapping[str, str]) -> str:
    """The text of server.properties. `advertised` (host:port) replaces the client listener's address for clients. A
    second listener stays direct, for the broker's own traffic (transaction markers travel over the network even on one
    node) and for observers that must bypass a proxy. `overrides` replace lines.
    """
    client, direct = f"{HOST}:{ports.client}", f"{HOST}:{ports.direct}"
    listeners = [("CLIENT", client, advertised or client)]
    if advertised is not None:
        listeners.append(("DIRECT", direct, direct))
    lines = {
        **DEVELOPMENT,
        # Static voters: the controller's port may change between two starts on the same data.
        "controller.quorum.voters": f"{NODE_ID}@{HOST}:{ports.controller}",
        "listeners": ",".join(
            [f"{name}://{bound}" for name, bound, _ in listeners] + [f"CONTROLLER://{HOST}:{ports.controller}"]
        ),
        "advertised.listeners": ",".join(f"{name}://{told}" for name, _, told in listeners),
        "inter.broker.listener.name": listeners[-1][0],
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data),
        **overrides,
    }
    return "".join(f"{name}={_escaped(value)}\n" for name, value in lines.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\")
