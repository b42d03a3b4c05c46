"""What one development node of Kafka is told: its ports and its server.properties."""

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

# Below the range from which Linux (32768), macOS and Windows (49152) draw the ports of outgoing connections. Inside it
# a client that redials a broker that is down can be given the broker's own port as its source, connect to itself, and
# keep the restarted broker from binding.
PORTS_FIRST = 20_000
PORTS_COUNT = 12_000
PORTS_SPREAD = 7_417
"""`PORTS_COUNT` by the golden ratio: multiples of it stay apart."""
_draws = itertools.count()


@dataclass(frozen=True, slots=True)
class Ports:
    """`client` is where clients (or the proxy before them) connect, `direct` is advertised as itself, always."""

    client: int
    direct: int
    controller: int


def draw_ports() -> Ports:
    """Three ports that were free a moment ago; two brokers of one process never get the same ones.

    Nothing can reserve them for a child process, so whoever starts on them must be ready to draw again.
    """
    with ExitStack() as held:
        return Ports(*(_free_port(held) for _ in range(3)))


def are_free(ports: Ports) -> bool:
    """Whether each could be bound a moment ago."""
    with ExitStack() as held:
        return all(_bind(held, port) for port in (ports.client, ports.direct, ports.controller))


def offset_of(pid: int) -> int:
    """Where in the range a process begins to draw. Processes that start one after the other, as those of one test run do, begin far
    apart: a broker that is down for a moment then finds its ports free when it comes back.
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
    )  # as Kafka does; connections that just closed are no bar
    try:
        probe.bind((HOST, port))
    except OSError:
        return False
    return True


# For development: what a production cluster replicates or holds back, one node must not. The same for the JVM and Docker.
DEVELOPMENT: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": str(NODE_ID),
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",  # a topic that is not in the table of topics is a mistake: say so
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
    "group.initial.rebalance.delay.ms": "0",  # nobody waits three seconds for members that do not come
    "group.min.session.timeout.ms": "500",  # a test of a lost worker may ask for less than the usual six seconds
    # A killed node may register again only when its old session is over: nine seconds, by default.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "400",
    "message.max.bytes": "1048588",  # Kafka's own default, so that a record too large fails here too
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": "16777216",  # held on the heap from the start; the default is 128 MiB
}


def properties(data: Path, ports: Ports, *, advertised: str | None, overrides: Mapping[str, str]) -> str:
    """The text of server.properties. `advertised` (host:port) is told to clients in place of the client port's own
    address; a second listener then stays direct, for the broker's own traffic (transaction markers travel over the
    network even on one node) and for observers who must see past a proxy. `overrides` win.
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
