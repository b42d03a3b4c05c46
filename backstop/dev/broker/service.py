"""The broker of a checkout: `up`, `down`, `status`. It runs on its own, and is found again through a record.

    .backstop/broker.json     the running broker: kind, pid or container, bootstrap, started_at
    .backstop/broker.lock     held during a start or stop
    .backstop/kafka/          the JVM node's folder: data, server.properties, kafka.log

The record is a hint: a pid counts only when its process is the one that was started.
"""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from backstop.dev.broker import chain, docker, processes, ready
from backstop.dev.broker.chain import Given, Source
from backstop.dev.broker.docker import Engine
from backstop.dev.broker.errors import BrokerError, BrokerFailedError, BrokerMissing
from backstop.dev.broker.jvm import Broker, PortTakenError, end_orphan
from backstop.dev.broker.node import BrokerPorts
from backstop.dev.broker.toolchain import Toolchain
from backstop.dev.state import state_folder

ANSWER_AGAIN_TIMEOUT_S = 30.0


class Kind(StrEnum):
    GIVEN = "given"
    DOCKER = "docker"
    JVM = "jvm"


@dataclass(frozen=True, slots=True)
class BrokerRecord:
    """A broker that was started here: `pid` on the JVM, `container` in Docker. `started_at` is ISO 8601, UTC."""

    kind: Kind
    bootstrap: str
    started_at: str
    pid: int | None = None
    container: str | None = None
    ports: BrokerPorts | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """`answers`: a metadata request was answered (for a given broker: a connection was accepted)."""

    record: BrokerRecord | None
    answers: bool
    sentence: str


def bootstrap_servers(environment: Mapping[str, str], folder: Path | None = None) -> str | None:
    """The address of this checkout's broker, as given or as recorded by `up`; else None. Connects to nothing."""
    source = chain.given(environment)
    if isinstance(source, Given):
        return source.bootstrap
    record = _Home(state_folder(folder, environment)).read()
    return record.bootstrap if record else None


def up(environment: Mapping[str, str], folder: Path, now: Callable[[], str]) -> BrokerRecord:
    """The running broker, or a new one; returns when it answers. `now` gives ISO 8601.

    A record of a process that has ended is replaced, and the new broker continues from its data.

    :raises NoBrokerError: no way to a broker is available.
    """
    source = chain.given(environment)
    if isinstance(source, Given):
        if not ready.reachable(source.bootstrap):
            raise BrokerFailedError(f"{chain.BOOTSTRAP_VARIABLE} is {source.bootstrap}, which accepts no connection")
        return BrokerRecord(Kind.GIVEN, source.bootstrap, now())
    home = _Home(folder)
    with home.locked():
        earlier = home.read()
        if earlier is not None and _is_running(earlier, home, environment):
            if processes.until(lambda: ready.answers(earlier.bootstrap), ANSWER_AGAIN_TIMEOUT_S):
                return earlier
            raise BrokerFailedError(
                f"{_name(earlier)} runs but does not answer at {earlier.bootstrap}; `backstop broker down` ends it"
            )
        end_orphan(home.node)
        ports = earlier.ports if earlier else None
        record = chain.first(chain.probes(environment), lambda way: _start(way, home, ports, now))
        home.write(record)
        return record


def down(environment: Mapping[str, str], folder: Path, *, wipe: bool = False) -> str:
    """Stop the broker that `up` started, and wait for its end; `wipe` removes its data. Returns a sentence for the
    user. May be called twice.
    """
    home = _Home(folder)
    if not folder.exists():
        return "no broker was started here"
    with home.locked():
        record = home.read()
        orphan = end_orphan(home.node) if record is None else None
        if record is not None:
            sentence = _stop(record, home, environment)
        elif orphan is not None:
            sentence = f"Kafka with pid {orphan}, left by an interrupted start, is stopped"
        else:
            sentence = "no broker was started here"
        if wipe:
            _wipe(record, home, environment)
            sentence += "; its data is removed"
        home.forget()
    return sentence


def status(environment: Mapping[str, str], folder: Path) -> Status:
    """The recorded or given broker, and whether it answers. Changes nothing."""
    source = chain.given(environment)
    if isinstance(source, Given):
        answers = ready.reachable(source.bootstrap)
        return Status(
            BrokerRecord(Kind.GIVEN, source.bootstrap, ""),
            answers,
            f"given by {chain.BOOTSTRAP_VARIABLE}: {source.bootstrap} "
            + ("accepts connections" if answers else "does not accept a connection"),
        )
    home = _Home(folder)
    record = home.read()
    if record is None:
        return Status(None, answers=False, sentence=f"no broker: nothing is recorded in {folder}")
    if not _is_running(record, home, environment):
        return Status(
            record, answers=False, sentence=f"no broker: {_name(record)}, started {record.started_at}, has ended"
        )
    answers = ready.answers(record.bootstrap)
    verb = "answers" if answers else "runs but does not answer"
    return Status(record, answers, f"{_name(record)} {verb} at {record.bootstrap}, since {record.started_at}")


class _Home:
    """The state folder, and the broker's record, lock and data in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node = folder / "kafka"
        self.record = folder / "broker.json"

    @property
    def mark(self) -> str:
        return str(self.node / "server.properties")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other starts and stops. The system releases the lock when its holder dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "broker.lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def read(self) -> BrokerRecord | None:
        """The record; None where there is none, or where it can't be read."""
        try:
            raw = json.loads(self.record.read_text())
            ports = BrokerPorts(**raw["ports"]) if raw.get("ports") else None
            return BrokerRecord(
                Kind(raw["kind"]), raw["bootstrap"], raw["started_at"], raw.get("pid"), raw.get("container"), ports
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, record: BrokerRecord) -> None:
        half_done = self.record.with_suffix(".part")
        half_done.write_text(json.dumps(asdict(record), indent=2) + "\n")
        half_done.replace(self.record)

    def forget(self) -> None:
        self.record.unlink(missing_ok=True)


def _start(source: Source, home: _Home, ports: BrokerPorts | None, now: Callable[[], str]) -> BrokerRecord:
    match source:
        case Given():
            raise AssertionError("a given broker is not started")
        case Engine():
            name = docker.container_name(home.folder)
            bootstrap = docker.start(source, name)
            return BrokerRecord(Kind.DOCKER, bootstrap, now(), container=name)
        case Toolchain():
            broker = _start_detached(source, home, ports)
            return BrokerRecord(Kind.JVM, broker.bootstrap, now(), pid=broker.release(), ports=broker.ports)


def _start_detached(source: Toolchain, home: _Home, ports: BrokerPorts | None) -> Broker:
    kafka = source.kafka()
    if ports is not None:  # clients may still use these ports; where another process has taken them, choose others
        with suppress(PortTakenError):
            return Broker(kafka, home.node, ports=ports, detached=True).start()
    return Broker(kafka, home.node, detached=True).start()


def _is_running(record: BrokerRecord, home: _Home, environment: Mapping[str, str]) -> bool:
    if record.kind is Kind.JVM:
        return record.pid is not None and processes.is_running(record.pid, mark=home.mark)
    engine = docker.find(environment)
    return isinstance(engine, Engine) and record.container is not None and docker.is_running(engine, record.container)


def _stop(record: BrokerRecord, home: _Home, environment: Mapping[str, str]) -> str:
    if not _is_running(record, home, environment):
        return f"{_name(record)} had already ended"
    if record.pid is not None:
        processes.stop(record.pid, mark=home.mark)
    elif record.container is not None:
        docker.stop(_engine(environment), record.container)
    return f"{_name(record)} is stopped"


def _wipe(record: BrokerRecord | None, home: _Home, environment: Mapping[str, str]) -> None:
    shutil.rmtree(home.node, ignore_errors=True)
    if record is not None and record.container is not None:
        docker.remove_data(_engine(environment), record.container)


def _engine(environment: Mapping[str, str]) -> Engine:
    engine = docker.find(environment)
    if isinstance(engine, BrokerMissing):
        raise BrokerError(f"the broker is a container, and Docker does not answer: {engine.reason}")
    return engine


def _name(record: BrokerRecord) -> str:
    return f"Kafka in container {record.container}" if record.container else f"Kafka with pid {record.pid}"
