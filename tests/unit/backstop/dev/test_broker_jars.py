"""Kafka's jars without Maven: where from, and that nothing is taken that is not what was pinned."""

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backstop.dev.broker import BrokerFailedError, jars, toolchain
from backstop.dev.broker.toolchain import Toolchain

POM = b"<project><kafka.version>4.1.1</kafka.version></project>"
KAFKA, OTHER = (
    "org/apache/kafka/kafka_2.13/4.1.1/kafka_2.13-4.1.1.jar",
    "org/slf4j/slf4j-api/1.7.36/slf4j-api-1.7.36.jar",
)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[str]:
    """A Maven repository with two jars, served over HTTP."""
    folder = tmp_path / "repository"
    for path in (KAFKA, OTHER):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(path)

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_arguments) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """A machine with Java, no Maven, and a pom whose two jars are pinned."""
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"25.0.2\"' >&2\n")
    java.chmod(0o755)
    files = tmp_path / "files"
    files.mkdir()
    (files / "pom.xml").write_bytes(POM)
    pin(tmp_path, {path: path for path in (KAFKA, OTHER)})
    return {"PATH": str(java.parent), "HOME": str(tmp_path / "home")}


def pin(tmp_path: Path, contents: dict[str, str]) -> None:
    lines = [f"{hashlib.sha256(text.encode()).hexdigest()}  {path}\n" for path, text in contents.items()]
    (tmp_path / "files" / "jars.txt").write_text("".join(lines))


def find(machine: dict[str, str], tmp_path: Path) -> Toolchain:
    found = toolchain.find(machine, tmp_path / "files")
    assert isinstance(found, Toolchain), found
    return found


def settings_of_maven(folder: Path, mirrors: str) -> None:
    folder.mkdir(parents=True)
    namespace = "http://maven.apache.org/SETTINGS/1.2.0"
    (folder / "settings.xml").write_text(f'<settings xmlns="{namespace}"><mirrors>{mirrors}</mirrors></settings>')


def test_the_jars_come_from_the_repository_that_is_named(
    machine: dict[str, str], repository: str, tmp_path: Path
) -> None:
    found = find(machine | {"BACKSTOP_MAVEN_REPOSITORY": f"{repository}/"}, tmp_path)
    libs = found.kafka().libs
    assert {jar.name: jar.read_text() for jar in libs.iterdir()} == {
        "kafka_2.13-4.1.1.jar": KAFKA,
        "slf4j-api-1.7.36.jar": OTHER,
    }


def test_the_jars_come_from_the_mirror_that_mavens_settings_name(
    machine: dict[str, str], repository: str, tmp_path: Path
) -> None:
    settings_of_maven(
        tmp_path / "home" / ".m2",
        "<mirror><mirrorOf>*</mirrorOf><url>http://blocked.example</url><blocked>true</blocked></mirror>"
        "<mirror><mirrorOf>other</mirrorOf><url>http://other.example</url></mirror>"
        "<mirror><mirrorOf>*,!central</mirrorOf><url>http://not-central.example</url></mirror>"
        f"<mirror><mirrorOf>central</mirrorOf><url>{repository}</url></mirror>",
    )
    assert len(list(find(machine, tmp_path).kafka().libs.iterdir())) == 2


def test_without_maven_and_without_a_repository_the_sentence_names_the_setting(
    machine: dict[str, str], tmp_path: Path
) -> None:
    found = toolchain.find(machine, tmp_path / "files")
    assert not isinstance(found, Toolchain)
    assert "set BACKSTOP_MAVEN_REPOSITORY to the address of a Maven repository" in found.remedy


@pytest.mark.parametrize("address", ["ftp://x", "file:///etc", "repository.example/maven2"])
def test_an_address_that_is_none_over_http_is_refused(machine: dict[str, str], tmp_path: Path, address: str) -> None:
    with pytest.raises(BrokerFailedError, match="starting with https:// or http://"):
        toolchain.find(machine | {"BACKSTOP_MAVEN_REPOSITORY": address}, tmp_path / "files")


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ({KAFKA: "another", OTHER: OTHER}, "kafka_2.13-4.1.1.jar is not the pinned jar: its sha256 is"),
        ({KAFKA: KAFKA, "org/none/1/none-1.jar": ""}, "none-1.jar could not be downloaded: HTTP Error 404"),
    ],
)
def test_a_jar_that_differs_or_is_missing_leaves_nothing_that_polls_whole(
    machine: dict[str, str], repository: str, tmp_path: Path, contents: dict[str, str], said: str
) -> None:
    pin(tmp_path, contents)
    found = find(machine | {"BACKSTOP_MAVEN_REPOSITORY": repository}, tmp_path)
    with pytest.raises(BrokerFailedError, match=re.escape(said)):
        found.kafka()
    assert not found.cache.exists()


def test_what_maven_brought_is_checked_as_well(machine: dict[str, str], tmp_path: Path) -> None:
    maven = tmp_path / "bin" / "mvn"
    maven.write_text("""#!/bin/sh
for one in "$@"; do case $one in -DoutputDirectory=*) out=${one#*=};; esac; done
/bin/mkdir -p "$out" && : > "$out/kafka_2.13-4.1.1.jar"
""")
    maven.chmod(0o755)
    with pytest.raises(
        BrokerFailedError, match=r"not hold exactly the pinned jars; they differ in: slf4j-api-1.7.36.jar"
    ):
        find(machine, tmp_path).kafka()


def test_the_pinned_jars_are_those_of_the_pom() -> None:
    pinned = jars.pinned(toolchain.FILES / "jars.txt")
    pom = (toolchain.FILES / "pom.xml").read_text()
    kafka, log4j = (re.search(rf"<{name}.version>([^<]+)<", pom) for name in ("kafka", "log4j"))
    assert kafka is not None
    assert log4j is not None
    names = {jar.name for jar in pinned}
    assert {f"kafka_2.13-{kafka[1]}.jar", f"kafka-server-{kafka[1]}.jar", f"log4j-slf4j-impl-{log4j[1]}.jar"} <= names
    assert len(names) == len(pinned) == 46
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) for jar in pinned)
