"""The one order in which a broker is looked for: given, Docker, the local JVM. The same for demo, development, tests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from backstop.dev.broker import docker, toolchain
from backstop.dev.broker.docker import Engine
from backstop.dev.broker.errors import BrokerError, Missing, NoBrokerError
from backstop.dev.broker.toolchain import Toolchain

BOOTSTRAP_VARIABLE = "KAFKA_BOOTSTRAP_SERVERS"

Started = TypeVar("Started")


@dataclass(frozen=True, slots=True)
class Given:
    """A broker that somebody else runs. Nothing of it is started, stopped or wiped here."""

    bootstrap: str


Source = Given | Engine | Toolchain
Probe = Callable[[], Source | Missing]


def given(environment: Mapping[str, str]) -> Given | Missing:
    bootstrap = environment.get(BOOTSTRAP_VARIABLE, "").strip()
    if bootstrap:
        return Given(bootstrap)
    return Missing(
        BOOTSTRAP_VARIABLE, "not set", f"set {BOOTSTRAP_VARIABLE}=host:port to a Kafka 3.7 or newer that runs somewhere"
    )


def probes(environment: Mapping[str, str]) -> tuple[Probe, ...]:
    """The ways, in order; each looks only when it is asked."""
    return (
        lambda: given(environment),
        lambda: docker.find(environment),
        lambda: toolchain.find(environment),
    )


def first(ways: tuple[Probe, ...], start: Callable[[Source], Started]) -> Started:
    """What `start` makes of the first way that is open and starts. One that fails to start is a closed way too.

    Raises `NoBrokerError`, which tells of each. A way after the one that worked is never looked at.
    """
    tried: list[Missing] = []
    for way in ways:
        found = way()
        if isinstance(found, Missing):
            tried.append(found)
            continue
        try:
            return start(found)
        except BrokerError as error:
            tried.append(Missing(name_of(found), f"it is here, but did not start: {error}", f"mend {name_of(found)}"))
    raise NoBrokerError(tried)


def name_of(source: Source) -> str:
    match source:
        case Given():
            return BOOTSTRAP_VARIABLE
        case Engine():
            return docker.WAY
        case Toolchain():
            return toolchain.WAY
