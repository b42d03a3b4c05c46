"""One Kafka node on the local JVM, as an object: start, stop, kill, freeze, and restart on its data.

A node that this process owns dies with it (see `ends_with_owner`). A `detached` node keeps running, and is found again
through the record that `service` keeps. Kafka logs to files in the node's folder, never to the console.
"""

import base64
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from backstop.dev.broker import ends_with_owner, processes, ready
from backstop.dev.broker.errors import BrokerError, BrokerFailedError
from backstop.dev.broker.node import HOST, BrokerPorts, are_free, draw_ports, properties
from backstop.dev.broker.toolchain import FILES, LocalKafka

START_TIMEOUT_S = 60.0
FORMAT_TIMEOUT_S = 60.0
IN_USE_TIMEOUT_S = 3.0
ARCHIVE_TIMEOUT_S = 60.0
"""For a node that writes its archive of classes at its end: three seconds, and over fifteen on a slow, busy machine."""
PORT_DRAWS_MAX = 5
TAIL_CHARACTERS = 3_000
SHARED_CLASSES = "classes.jsa"

# Start measured on two cores, Java 17, Kafka 4.1.1: serial 2.8 s, G1 2.8 s, C1 only (TieredStopAtLevel=1) 2.4 s. Serial
# needs the fewest threads. C1 alone: docs/decisions/0074-the-local-broker-compiles-little.md.
_LITTLE = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
NODE_OPTIONS = ("-Xms128m", "-Xmx512m", *_LITTLE, "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")
TOOL_OPTIONS = ("-Xmx128m", *_LITTLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """What a node has of its own. `overrides` (lines of server.properties) and `java_options` override the defaults."""

    advertised: str | None = None
    """The address (host:port) given to clients, for a proxy that forwards to `listen`."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    cluster_id: str | None = None
    """Nodes of one cluster are formatted with one id; None draws one."""
    java_options: tuple[str, ...] = ()


class Broker:
    """A node of Kafka on this machine's JVM. Blocking calls; from async code use `asyncio.to_thread(broker.start)`.

    `folder` holds its data, settings and logs and is kept; without it a temporary one is made and removed on `stop`.
    """

    kind = "jvm"

    def __init__(
        self,
        kafka: LocalKafka,
        folder: Path | None = None,
        *,
        ports: BrokerPorts | None = None,
        options: NodeOptions = NodeOptions(),
        detached: bool = False,
    ) -> None:
        self._kafka = kafka
        self._temporary = folder is None
        self._folder = folder.resolve() if folder is not None else None
        self._options = options
        self._ports = ports
        self._cluster_id = options.cluster_id or draw_cluster_id()
        self._detached = detached
        self._process: subprocess.Popen[bytes] | None = None
        self._stdin: IO[bytes] | None = None

    @property
    def folder(self) -> Path:
        if self._folder is None:
            raise BrokerError("the broker has not been started: it has no folder yet")
        return self._folder

    @property
    def log(self) -> Path:
        """Kafka's log file."""
        return self.folder / "kafka.log"

    @property
    def mark(self) -> str:
        """Identifies the node's process: the path of its settings, which is in its command line."""
        return _mark(self.folder)

    @property
    def ports(self) -> BrokerPorts:
        if self._ports is None:
            raise BrokerError("the broker has not been started: it has no ports yet")
        return self._ports

    @property
    def bootstrap(self) -> str:
        """The address for clients: the advertised one where there is one."""
        return self._options.advertised or self.listen

    @property
    def listen(self) -> str:
        """The address of the client listener, to which a proxy forwards."""
        return f"{HOST}:{self.ports.client}"

    @property
    def direct(self) -> str:
        """A bootstrap address that bypasses the proxy."""
        return self.listen if self._options.advertised is None else f"{HOST}:{self.ports.direct}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise BrokerError("the broker is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = START_TIMEOUT_S) -> Self:
        """Start, or restart on the same ports and data; returns when a metadata request is answered.

        :raises BrokerFailedError: the node does not start; contains the end of Kafka's log.
        """
        if self.running:
            raise BrokerError(f"the broker is already running, pid {self.pid}")
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="backstop-kafka-")).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._refuse_a_second_node()
        try:
            self._start_on_free_ports(timeout_s)
        except BaseException:
            self.kill()
            self._remove_if_temporary()
            raise
        return self

    def stop(self) -> None:
        """Stop with SIGTERM (SIGKILL after 15 s), wait for the exit. May be called twice.

        A temporary folder is removed, and its broker has nothing to write down: it is killed at once. Where there is no
        archive of classes yet, it ends by SIGTERM: Java makes the archive at its exit.
        """
        if self._process is not None:
            self._end(signal.SIGKILL if self._temporary and not self._archives else signal.SIGTERM)
        self._remove_if_temporary()

    def kill(self) -> None:
        """Kill with SIGKILL, like a crash. The folder stays, and `start` continues from its data."""
        if self._process is not None:
            self._end(signal.SIGKILL)

    def restart(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Stop with SIGTERM and start again on the same ports and data."""
        if self._process is not None:
            self._end(signal.SIGTERM)
        self.start(timeout_s)

    def release(self) -> int:
        """Leave a detached broker running without this object; returns its pid."""
        assert self._detached
        assert self._process is not None
        pid = self._process.pid
        self._process.returncode = 0  # else Popen's finalizer warns of a running child, which is intended here
        self._process = None
        return pid

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open, and requests get no answer."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _refuse_a_second_node(self) -> None:
        """Wait briefly for an earlier node to end: its owner may have been killed a moment ago."""
        if not processes.until(lambda: _pid_on(self.folder) is None, IN_USE_TIMEOUT_S):
            raise BrokerError(f"{self.folder} is in use by a node with pid {_pid_on(self.folder)}")

    def _start_on_free_ports(self, timeout_s: float) -> None:
        if self._ports is not None:  # clients already use these ports, so no others will do
            self._start_once(self._ports, timeout_s)
            return
        for _ in range(PORT_DRAWS_MAX - 1):
            with suppress(PortTakenError):  # another process took a chosen port since: choose again
                self._start_once(draw_ports(), timeout_s)
                return
        self._start_once(draw_ports(), timeout_s)

    def _start_once(self, ports: BrokerPorts, timeout_s: float) -> None:
        if not are_free(ports):
            raise PortTakenError(f"a port of {ports} is taken by another process")
        data = self.folder / "data"
        text = properties(data, ports, advertised=self._options.advertised, overrides=self._options.overrides)
        Path(self.mark).write_text(text)
        if not (data / "meta.properties").exists():
            self._format(data)
        log_start = self.log.stat().st_size if self.log.exists() else 0
        self._launch()
        pinned, self._ports = self._ports, ports
        if processes.until(lambda: not self.running or ready.answers(self.direct), timeout_s) and self.running:
            return
        said = self._said_since(log_start)
        ended = self._process.poll() if self._process is not None else None
        self.kill()
        if ended is not None and "Address already in use" in said:
            self._ports = pinned
            raise PortTakenError(f"a port of {ports} was taken before Kafka could bind it")
        how = f"did not answer within {timeout_s:g} s" if ended is None else f"ended with exit code {ended}"
        raise BrokerFailedError(f"Kafka {how}; the end of {self.log}:\n{said[-TAIL_CHARACTERS:]}")

    def _format(self, data: Path) -> None:
        """Format the storage, once. Kafka writes meta.properties last; where it is missing, the storage is made
        again.
        """
        shutil.rmtree(data, ignore_errors=True)
        command = self._kafka.command(
            "kafka.tools.StorageTool",
            *("format", "--cluster-id", self._cluster_id, "--config", self.mark),
            options=(*TOOL_OPTIONS, *self._shared_classes()),
        )
        done = processes.capture(command, FORMAT_TIMEOUT_S)
        if done.returncode != 0:
            shutil.rmtree(data, ignore_errors=True)
            raise BrokerFailedError(f"Kafka could not format {data}:\n{(done.stdout + done.stderr)[-TAIL_CHARACTERS:]}")

    def _launch(self) -> None:
        command = self._kafka.command(
            "kafka.Kafka",
            self.mark,
            options=(
                *NODE_OPTIONS,
                *self._options.java_options,
                *(self._shared_classes() or self._share_classes_at_exit()),
                f"-Dlog4j2.configurationFile={FILES / 'log4j2.xml'}",
                f"-Dbackstop.log={self.log}",
            ),
        )
        with (self.folder / "console.log").open("wb") as console:
            self._process = self._spawn(command, console)
        self._let_the_watcher_go()  # the watcher of an earlier node on this folder, which was killed
        self._stdin = self._process.stdin
        _pid_file(self.folder).write_text(str(self._process.pid))

    def _spawn(self, command: list[str], console: IO[bytes]) -> subprocess.Popen[bytes]:
        if not self._detached:
            wipe = ["--wipe", str(self.folder)] if self._temporary else []
            command = [sys.executable, "-I", "-S", ends_with_owner.__file__, *wipe, "--", *command]
        return subprocess.Popen(  # noqa: S603 - no shell; java and its arguments are put together above
            command,
            stdin=subprocess.DEVNULL if self._detached else subprocess.PIPE,
            stdout=console,
            stderr=console,
            start_new_session=True,  # Ctrl-C is for the owner, who stops the broker last
        )

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        assert process is not None
        if process.poll() is None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)  # a frozen process handles SIGTERM only after SIGCONT
            try:
                process.wait(ARCHIVE_TIMEOUT_S if self._archives else processes.TERM_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(processes.KILL_TIMEOUT_S)
        self._process = None
        _pid_file(self.folder).unlink(missing_ok=True)
        self._keep_shared_classes()

    def _let_the_watcher_go(self) -> None:
        """Release the watcher, after the folder is removed or another node runs on it. Until then the watcher must
        remove the folder if its owner dies.
        """
        pipe, self._stdin = self._stdin, None
        if pipe is not None:
            with suppress(OSError):  # the watcher may be gone already
                pipe.write(b".")
                pipe.flush()
            with suppress(OSError):
                pipe.close()

    def _shared_classes(self) -> tuple[str, ...]:
        """The option for Java's archive of Kafka's classes, if an earlier node made one: a start takes 1.6 s, not 2.8
        s.

        Java checks that the archive fits the jars and the JVM, and ignores it otherwise.
        """
        return (f"-XX:SharedArchiveFile={self._kafka.shared_classes}",) if self._kafka.shared_classes.exists() else ()

    @property
    def _archives(self) -> bool:
        """Whether this node makes the archive of classes at its end."""
        return self._temporary and not self._shared_classes()

    def _share_classes_at_exit(self) -> tuple[str, ...]:
        # Costs about three seconds once, when the node stops: only a temporary node pays it, at the end of its run.
        return (f"-XX:ArchiveClassesAtExit={self.folder / SHARED_CLASSES}",) if self._temporary else ()

    def _keep_shared_classes(self) -> None:
        made, kept = self.folder / SHARED_CLASSES, self._kafka.shared_classes
        if made.exists() and not kept.exists():
            with suppress(OSError):  # a cache that cannot be written is no reason to fail
                half_done = kept.with_name(f"{kept.name}.{os.getpid()}.part")
                shutil.copyfile(made, half_done)
                half_done.replace(kept)

    def _remove_if_temporary(self) -> None:
        if self._temporary and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        self._let_the_watcher_go()

    def _said_since(self, log_start: int) -> str:
        said = ""
        with suppress(OSError), self.log.open("rb") as log:
            log.seek(log_start)
            said = log.read().decode(errors="replace")
        with suppress(OSError):
            said += (self.folder / "console.log").read_text(errors="replace")
        return said


def draw_cluster_id() -> str:
    """A random id as Kafka writes them."""
    return base64.urlsafe_b64encode(b"\x01" + os.urandom(15)).decode().rstrip("=")


def end_orphan(folder: Path) -> int | None:
    """Stop a node that an interrupted start left running on `folder`; returns its pid, if there was one."""
    pid = _pid_on(folder)
    if pid is not None:
        processes.stop(pid, mark=_mark(folder))
    return pid


def _pid_on(folder: Path) -> int | None:
    """The pid of the node that runs on `folder` now."""
    try:
        pid = int(_pid_file(folder).read_text())
    except (OSError, ValueError):
        return None
    return pid if processes.is_running(pid, mark=_mark(folder)) else None


def _mark(folder: Path) -> str:
    return str(folder / "server.properties")


def _pid_file(folder: Path) -> Path:
    return folder / "pid"


class PortTakenError(BrokerFailedError):
    """Another process has bound one of the node's ports."""
