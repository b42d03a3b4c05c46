"""Which broker is taken, and what is said when none can be had."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backstop.dev.broker import BrokerFailedError, NoBrokerError, chain, toolchain
from backstop.dev.broker.chain import Given
from backstop.dev.broker.docker import Engine
from backstop.dev.broker.errors import BrokerMissing
from backstop.dev.broker.toolchain import Toolchain

GIVEN = Given("somewhere:9092")
ENGINE = Engine("/bin/docker", "28.0", {})
JVM = Toolchain("/bin/java", "17", Path("pom.xml"), Path("cache"), None)
NOT_SET = BrokerMissing("KAFKA_BOOTSTRAP_SERVERS", "not set", "set it")
NO_ENGINE = BrokerMissing("Docker", "no engine answers", "install Docker")
NO_JAVA = BrokerMissing("the local JVM", "no java", "install Java 17")
BACKSTOP = str(Path(sys.executable).with_name("backstop"))


def never_asked():
    raise AssertionError("a way after the one that worked was looked at")


@pytest.mark.parametrize(
    ("ways", "taken"),
    [
        ((lambda: GIVEN, never_asked, never_asked), GIVEN),
        ((lambda: NOT_SET, lambda: ENGINE, never_asked), ENGINE),
        ((lambda: NOT_SET, lambda: NO_ENGINE, lambda: JVM), JVM),
    ],
)
def test_the_first_way_that_is_open_is_taken_and_no_later_one_is_polled_at(ways, taken) -> None:
    assert chain.first(ways, lambda source: source) == taken


def test_a_way_that_is_open_and_does_not_start_gives_way_to_the_next() -> None:
    def start(source):
        if source == ENGINE:
            raise BrokerFailedError("the image cannot be pulled")
        return source

    assert chain.first((lambda: NOT_SET, lambda: ENGINE, lambda: JVM), start) == JVM


def test_nothing_to_be_had_tells_of_each_way_with_its_reason_and_remedy() -> None:
    def start(_source):
        raise BrokerFailedError("the image cannot be pulled")

    with pytest.raises(NoBrokerError) as caught:
        chain.first((lambda: NOT_SET, lambda: ENGINE, lambda: NO_JAVA), start)
    assert str(caught.value).splitlines() == [
        "no Kafka broker is available. Tried:",
        "  1. KAFKA_BOOTSTRAP_SERVERS: not set",
        "  2. Docker: it is installed, but did not start: the image cannot be pulled",
        "  3. the local JVM: no java",
        "Any one of these helps:",
        "  - set it",
        "  - fix Docker",
        "  - install Java 17",
    ]


def test_the_ways_are_given_then_docker_then_the_jvm() -> None:
    found = [way() for way in chain.probes({"PATH": ""})]
    assert [one.way for one in found if isinstance(one, BrokerMissing)] == [
        "KAFKA_BOOTSTRAP_SERVERS",
        "Docker",
        "Apache Kafka on the local JVM",
    ]


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_bootstrap_variable_gives_nothing(value: str) -> None:
    assert isinstance(chain.given({"KAFKA_BOOTSTRAP_SERVERS": value}), BrokerMissing)


def test_a_given_broker_is_taken_as_written() -> None:
    assert chain.given({"KAFKA_BOOTSTRAP_SERVERS": " a:1,b:2 "}) == Given("a:1,b:2")


def backstop(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "BACKSTOP_", "JAVA_"))}
    return subprocess.run(
        [BACKSTOP, "broker", *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_up_on_a_machine_with_nothing_says_what_was_tried_and_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    done = backstop("up", "--state-dir", str(tmp_path / "state"), PATH=str(tmp_path / "bin"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "no docker on the PATH" in done.stderr
    assert "no java in JAVA_HOME or on the PATH" in done.stderr or toolchain.bundled_java()
    assert "install Maven" in done.stderr or "apt-get install openjdk-17" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state" / "broker.json").exists()


def test_a_given_broker_that_does_not_answer_is_an_error_and_starts_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = backstop("up", "--state-dir", str(state), KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert (done.returncode, state.exists()) == (2, False)
    assert "which accepts no connection" in done.stderr
    asked = backstop("status", "--state-dir", str(state), KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert (asked.returncode, "does not accept a connection" in asked.stdout) == (1, True)


def test_down_and_status_where_nothing_was_started_say_so(tmp_path: Path) -> None:
    state = tmp_path / "state"
    down, status = backstop("down", "--state-dir", str(state)), backstop("status", "--state-dir", str(state))
    assert (down.returncode, down.stdout) == (0, "no broker was started here\n")
    assert (status.returncode, "nothing is recorded" in status.stdout) == (1, True)
    assert not state.exists()
