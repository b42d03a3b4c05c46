"""A broker for the duration of a `with` block, for the demo and the tests."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backstop.dev.broker import chain, docker, toolchain
from backstop.dev.broker.chain import Given, Source
from backstop.dev.broker.docker import Engine
from backstop.dev.broker.errors import BrokerMissing, NoBrokerError
from backstop.dev.broker.jvm import Broker
from backstop.dev.broker.toolchain import LocalKafka, Toolchain


@dataclass(frozen=True, slots=True)
class Owned:
    """A broker that answers. `node` is its JVM node, if any, which can be killed, frozen and restarted."""

    bootstrap: str
    source: Source
    container: str | None = None
    node: Broker | None = None
    keep: bool = False
    """Whether the broker's data outlives it."""


@contextmanager
def owned(environment: Mapping[str, str], folder: Path | None = None) -> Iterator[Owned]:
    """The first broker of the chain that starts; it is stopped at the end of the block. A given broker is left running.

    With `folder`, its data stays there (for a container, in the volume named after the folder), and the next broker on
    the folder continues from it. A JVM node also ends when this process is killed; a container then stays, and
    `docker ps` shows it.

    :raises NoBrokerError: no way to a broker is available.
    """
    broker = chain.first(chain.probes(environment), lambda source: _start(source, folder))
    try:
        yield broker
    finally:
        _end(broker)


def local_kafka(environment: Mapping[str, str]) -> LocalKafka:
    """Kafka's jars and a java, for `Broker(local_kafka(...))`; downloads the jars where they are not cached yet.

    :raises NoBrokerError: this machine has no Java 17, or no source of the jars.
    """
    found = toolchain.find(environment)
    if isinstance(found, BrokerMissing):
        raise NoBrokerError([found])
    return found.kafka()


def _start(source: Source, folder: Path | None) -> Owned:
    keep = folder is not None
    match source:
        case Given():
            return Owned(source.bootstrap, source)
        case Engine():
            name = f"backstop-kafka-owned-{os.getpid()}" if folder is None else docker.container_name(folder)
            return Owned(docker.start(source, name), source, container=name, keep=keep)
        case Toolchain():
            node = Broker(source.kafka(), None if folder is None else folder / "kafka").start()
            return Owned(node.bootstrap, source, node=node, keep=keep)


def _end(broker: Owned) -> None:
    if broker.node is not None:
        broker.node.stop()
    if broker.container is not None and isinstance(broker.source, Engine):
        docker.remove(broker.source, broker.container)
        if not broker.keep:
            docker.remove_data(broker.source, broker.container)
