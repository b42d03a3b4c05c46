"""Apache Kafka as jars on this machine: a Java that is new enough, and the jars, resolved by Maven once per user.

The cache folder is named by the version and by a hash of the pom, and appears whole or not at all: Maven fills a folder
beside it, which is renamed when it is complete. A lock lets one of several that start at once do the download.
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
from pathlib import Path

from runtime.broker import processes
from runtime.broker.errors import BrokerFailedError, Missing

WAY = "Apache Kafka on the local JVM"
JAVA_MAJOR_MIN = 17  # Kafka 4's brokers run on Java 17 or newer (Kafka 4.0 upgrade notes, March 2025)
JAVA_PROBE_TIMEOUT_S = 20.0
RESOLVE_TIMEOUT_S = 600.0
DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "broker"


@dataclass(frozen=True, slots=True)
class LocalKafka:
    """What a node is started with: the java to run and the folder of jars."""

    java: str
    java_version: str
    libs: Path

    @property
    def shared_classes(self) -> Path:
        """Where the archive of loaded classes is kept for this Java; need not exist."""
        return self.libs.parent / f"classes-{self.java_version}.jsa"

    def command(self, main: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        return [self.java, *options, "-cp", f"{self.libs}/*", main, *arguments]


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A JVM that can run Kafka, and the jars where they are or will be. `maven` is None where nothing is to resolve."""

    java: str
    java_version: str
    pom: Path
    cache: Path
    maven: str | None

    def kafka(self) -> LocalKafka:
        """The jars, resolved now where they are not here yet (a download of some 43 MB)."""
        if not (self.cache / "libs").is_dir():
            _resolve(self.pom, self.cache, self.maven)
        return LocalKafka(self.java, self.java_version, self.cache / "libs")


def find(environment: Mapping[str, str], deploy: Path = DEPLOY) -> Toolchain | Missing:
    """Look for Java, the jars and, where they are missing, Maven. Downloads nothing."""
    remedy = (
        f"install Java {JAVA_MAJOR_MIN} or newer and Maven "
        f"(Debian: apt-get install openjdk-{JAVA_MAJOR_MIN}-jre-headless maven; macOS: brew install openjdk maven)"
    )
    pom = deploy / "pom.xml"
    if not pom.is_file():
        return Missing(WAY, f"{pom} is not there", "run from a checkout of Backstop, with its deploy folder")
    java = _find_java(environment)
    if java is None:
        return Missing(WAY, "no java in JAVA_HOME or on the PATH", remedy)
    version = _java_version(java)
    if version is None:
        return Missing(WAY, f"{java} -version does not say its version", remedy)
    if java_major(version) < JAVA_MAJOR_MIN:
        return Missing(WAY, f"{java} is Java {version}, and Kafka 4 needs {JAVA_MAJOR_MIN} or newer", remedy)
    cache = cache_folder(environment, pom.read_bytes())
    maven = shutil.which("mvn", path=environment.get("PATH", ""))
    if maven is None and not (cache / "libs").is_dir():
        return Missing(WAY, f"Java {version} is here, but no mvn on the PATH to resolve Kafka's jars with", remedy)
    return Toolchain(java, version, pom, cache, maven)


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
    # An XDG path that is not absolute is to be ignored (XDG Base Directory Specification 0.8).
    root = Path(kept) if Path(kept).is_absolute() else Path(environment.get("HOME") or Path.home()) / ".cache"
    version = re.search(rb"<kafka\.version>([^<]+)<", pom)
    named = version.group(1).decode() if version else "unknown"
    return root / "backstop" / f"kafka-{named}-{hashlib.sha256(pom).hexdigest()[:12]}"


def _find_java(environment: Mapping[str, str]) -> str | None:
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


def _resolve(pom: Path, cache: Path, maven: str | None) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    with _locked(cache.with_name(cache.name + ".lock")):
        if (cache / "libs").is_dir():  # another resolver was faster
            return
        if maven is None:
            raise BrokerFailedError(
                f"Kafka's jars vanished from {cache}, and no mvn is on the PATH to resolve them again"
            )
        half_done = cache.with_name(cache.name + ".part")
        shutil.rmtree(half_done, ignore_errors=True)  # of one that was killed: the lock says that nobody works on it
        shutil.rmtree(cache, ignore_errors=True)
        _copy_dependencies(maven, pom, half_done / "libs")
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
