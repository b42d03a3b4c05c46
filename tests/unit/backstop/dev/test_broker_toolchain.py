"""Java and the jars: what is found, what is refused, and a download that is whole or not there."""

import threading
from pathlib import Path

import pytest

from backstop.dev.broker import BrokerFailedError, toolchain
from backstop.dev.broker.errors import BrokerMissing
from backstop.dev.broker.toolchain import Toolchain

POM = b"<project><kafka.version>4.1.1</kafka.version></project>"


def program(folder: Path, name: str, body: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """A machine with Java 21, a Maven that brings one jar and counts its runs, and a home."""
    java = """echo 'openjdk version "21.0.2" 2024-01-16' >&2"""
    maven = f"""echo run >> {tmp_path}/maven-runs
for one in "$@"; do case $one in -DoutputDirectory=*) out=${{one#*=}};; esac; done
/bin/mkdir -p "$out" && : > "$out/kafka_2.13-4.1.1.jar" """
    program(tmp_path / "bin", "java", java)
    program(tmp_path / "bin", "mvn", maven)
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "pom.xml").write_bytes(POM)
    return {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path / "home")}


def find(machine: dict[str, str], tmp_path: Path) -> Toolchain:
    found = toolchain.find(machine, tmp_path / "deploy")
    assert isinstance(found, Toolchain), found
    return found


def find_none(machine: dict[str, str], tmp_path: Path) -> BrokerMissing:
    missing = toolchain.find(machine, tmp_path / "deploy")
    assert isinstance(missing, BrokerMissing), missing
    return missing


@pytest.mark.parametrize(
    ("version", "major"), [("17.0.15", 17), ("21", 21), ("21-ea", 21), ("1.8.0_292", 8), ("11.0.2", 11), ("25.0.1", 25)]
)
def test_the_major_version_of_java_is_read_in_its_old_and_new_form(version: str, major: int) -> None:
    assert toolchain.java_major(version) == major


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime Environment', "17.0.15"),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\njava version "1.8.0_292"', "1.8.0_292"),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", None),
        ("", None),
    ],
)
def test_the_version_is_found_in_what_java_prints(output: str, version: str | None) -> None:
    assert toolchain.parse_java_version(output) == version


def test_finding_downloads_nothing(machine: dict[str, str], tmp_path: Path) -> None:
    found = find(machine, tmp_path)
    assert (found.java_version, found.maven) == ("21.0.2", str(tmp_path / "bin" / "mvn"))
    assert not (tmp_path / "home").exists()


def test_java_home_goes_before_the_path(machine: dict[str, str], tmp_path: Path) -> None:
    program(tmp_path / "jdk" / "bin", "java", """echo 'openjdk version "25"' >&2""")
    found = find(machine | {"JAVA_HOME": str(tmp_path / "jdk")}, tmp_path)
    assert found.java_version == "25"


def test_a_java_that_is_too_old_is_refused_with_both_versions(machine: dict[str, str], tmp_path: Path) -> None:
    program(tmp_path / "bin", "java", """echo 'openjdk version "11.0.2"' >&2""")
    found = find_none(machine, tmp_path)
    assert "is Java 11.0.2, and Kafka 4 needs 17 or newer" in found.reason
    assert "openjdk-17-jre-headless maven" in found.remedy


def test_without_maven_the_way_is_closed_unless_the_jars_are_here_already(
    machine: dict[str, str], tmp_path: Path
) -> None:
    found = find(machine, tmp_path)
    (tmp_path / "bin" / "mvn").unlink()
    missing = find_none(machine, tmp_path)
    assert "no mvn on the PATH" in missing.reason
    (found.cache / "libs").mkdir(parents=True)
    found = find(machine, tmp_path)
    assert found.kafka().libs == found.cache / "libs"


def test_the_jars_are_resolved_once_and_another_pom_has_a_folder_of_its_own(
    machine: dict[str, str], tmp_path: Path
) -> None:
    for _ in range(2):
        found = find(machine, tmp_path)
        assert list(found.kafka().libs.iterdir())
    assert (tmp_path / "maven-runs").read_text() == "run\n"
    assert toolchain.cache_folder(machine, POM) == found.cache
    assert toolchain.cache_folder(machine, POM + b"\n") != found.cache


def test_a_download_that_fails_leaves_nothing_that_polls_whole(machine: dict[str, str], tmp_path: Path) -> None:
    found = find(machine, tmp_path)
    program(tmp_path / "bin", "mvn", "echo 'Could not transfer artifact' ; exit 1")
    with pytest.raises(BrokerFailedError, match="Could not transfer artifact"):
        found.kafka()
    assert not found.cache.exists()


def test_a_download_that_was_cut_short_is_begun_anew(machine: dict[str, str], tmp_path: Path) -> None:
    found = find(machine, tmp_path)
    half_done = found.cache.with_name(found.cache.name + ".part")
    (half_done / "libs").mkdir(parents=True)
    (half_done / "libs" / "kafka_half.jar").write_text("half")
    assert [jar.name for jar in found.kafka().libs.iterdir()] == ["kafka_2.13-4.1.1.jar"]
    assert not half_done.exists()


def test_two_that_resolve_at_once_download_once(machine: dict[str, str], tmp_path: Path) -> None:
    found = find(machine, tmp_path)
    ready = threading.Barrier(4)
    libs: list[Path] = []

    def resolve() -> None:
        ready.wait(10)
        libs.append(found.kafka().libs)

    resolvers = [threading.Thread(target=resolve) for _ in range(4)]
    for one in resolvers:
        one.start()
    for one in resolvers:
        one.join()
    assert libs == [found.cache / "libs"] * 4
    assert (tmp_path / "maven-runs").read_text() == "run\n"


@pytest.mark.parametrize(
    ("xdg", "under"), [("/elsewhere", "/elsewhere"), ("relative", "/home/me/.cache"), ("", "/home/me/.cache")]
)
def test_the_cache_is_where_xdg_says_if_that_is_absolute(xdg: str, under: str) -> None:
    folder = toolchain.cache_folder({"HOME": "/home/me", "XDG_CACHE_HOME": xdg}, POM)
    assert folder.parent == Path(under) / "backstop"
    assert folder.name.startswith("kafka-4.1.1-")


def test_an_installation_without_the_pom_says_so(machine: dict[str, str], tmp_path: Path) -> None:
    found = toolchain.find(machine, tmp_path / "nowhere")
    assert isinstance(found, BrokerMissing)
    assert "reinstall Backstop" in found.remedy


def test_the_pom_names_the_version_in_the_cache_folder() -> None:
    pom = (toolchain.FILES / "pom.xml").read_bytes()
    assert toolchain.cache_folder({"HOME": "/h"}, pom).name.startswith("kafka-4.1.1-")


@pytest.mark.parametrize("given", ["nothing", "too old", "no java at all"])
def test_the_bundled_java_is_taken_where_no_other_is_new_enough(
    machine: dict[str, str], tmp_path: Path, given: str
) -> None:
    program(tmp_path / "bundled", "java", """echo 'openjdk version "25.0.2" 2026-01-20 LTS' >&2""")
    if given == "nothing":
        (tmp_path / "bin" / "java").unlink()
    else:
        program(tmp_path / "bin", "java", """echo 'openjdk version "11.0.2"' >&2""" if given == "too old" else "exit 1")
    found = toolchain.find(machine, tmp_path / "deploy", str(tmp_path / "bundled" / "java"))
    assert isinstance(found, Toolchain)
    assert (found.java, found.java_version) == (str(tmp_path / "bundled" / "java"), "25.0.2")


def test_a_java_that_is_new_enough_goes_before_the_bundled_one(machine: dict[str, str], tmp_path: Path) -> None:
    program(tmp_path / "bundled", "java", """echo 'openjdk version "25.0.2" 2026-01-20 LTS' >&2""")
    found = toolchain.find(machine, tmp_path / "deploy", str(tmp_path / "bundled" / "java"))
    assert isinstance(found, Toolchain)
    assert found.java_version == "21.0.2"
