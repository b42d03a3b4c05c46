"""The order in which a broker is looked for: given, Docker, the local JVM. The same for demo, development and tests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from backstop.dev.broker import docker, toolchain
from backstop.dev.broker.docker import Engine
from backstop.dev.broker.errors import BrokerError, BrokerMissing, NoBrokerError
from backstop.dev.broker.toolchain import Toolchain

BOOTSTRAP_VARIABLE = "KAFKA_BOOTSTRAP_SERVERS"

Started = TypeVar("Started")


@dataclass(frozen=True, slots=True)
class Given:
    """A broker that the user runs. Backstop never starts, stops or wipes it."""

    bootstrap: str


Source = Given | Engine | Toolchain
Probe = Callable[[], Source | BrokerMissing]


def given(environment: Mapping[str, str]) -> Given | BrokerMissing:
    bootstrap = environment.get(BOOTSTRAP_VARIABLE, "").strip()
    if bootstrap:
        return Given(bootstrap)
    return BrokerMissing(
        BOOTSTRAP_VARIABLE, "not set", f"set {BOOTSTRAP_VARIABLE}=host:port to a running Kafka 3.7 or newer"
    )


def probes(environment: Mapping[str, str]) -> tuple[Probe, ...]:
    """The ways to a broker, in order. A way is probed only when it is called."""
    return (
        lambda: given(environment),
        lambda: docker.find(environment),
        lambda: toolchain.find(environment),
    )


def first(ways: tuple[Probe, ...], start: Callable[[Source], Started]) -> Started:
    """The result of `start` for the first way that is available and starts. Later ways are not probed.

    :raises NoBrokerError: no way worked; lists each with its reason.
    """
    tried: list[BrokerMissing] = []
    for way in ways:
        found = way()
        if isinstance(found, BrokerMissing):
            tried.append(found)
            continue
        try:
            return start(found)
        except BrokerError as error:
            tried.append(
                BrokerMissing(name_of(found), f"it is installed, but did not start: {error}", f"fix {name_of(found)}")
            )
    raise NoBrokerError(tried)


def name_of(source: Source) -> str:
    match source:
        case Given():
            return BOOTSTRAP_VARIABLE
        case Engine():
            return docker.WAY
        case Toolchain():
            return toolchain.WAY
