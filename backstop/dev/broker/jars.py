"""Kafka's jars from any Maven repository, each known by its pinned sha256: for machines that have no Maven.

`jars.txt` is made from the pom (`make lock-jars`). The project names no repository: the address is a setting, or stands in Maven's own settings.
"""

import hashlib
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from backstop.dev.broker.errors import BrokerFailedError

REPOSITORY_VARIABLE = "BACKSTOP_MAVEN_REPOSITORY"
REQUEST_TIMEOUT_S = 60.0
JAR_BYTES_MAX = 64 << 20
DOWNLOADS_AT_ONCE = 4
CENTRAL = {"*", "central", "external:*"}
"""What a mirror in Maven's settings is a mirror of, where it answers for Maven's central repository."""


@dataclass(frozen=True, slots=True)
class Jar:
    sha256: str
    path: str
    """Below the repository, as Maven lays it out."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def pinned(file: Path) -> tuple[Jar, ...]:
    """The jars that `file` names, one a line: the hash, the path; none where there is no such file."""
    if not file.is_file():
        return ()
    return tuple(Jar(*line.split()) for line in file.read_text().splitlines())


def repository(environment: Mapping[str, str]) -> str | None:
    """The address that the setting names; None where it is not set.

    :raises BrokerFailedError: it is no address over HTTP.
    """
    named = environment.get(REPOSITORY_VARIABLE, "").strip().rstrip("/")
    if named and not named.startswith(("https://", "http://")):
        raise BrokerFailedError(
            f"{REPOSITORY_VARIABLE} is not an address that begins with https:// or http://: set it to that of a Maven repository"
        )
    return named or None


def mirror_in_maven_settings(environment: Mapping[str, str]) -> str | None:
    """The mirror of the central repository that the user's or the machine's Maven settings name."""
    folders = [Path(environment[name]) / "conf" for name in ("MAVEN_HOME", "M2_HOME") if environment.get(name)]
    if environment.get("HOME"):
        folders.insert(0, Path(environment["HOME"]) / ".m2")
    for file in (folder / "settings.xml" for folder in folders):
        try:
            found = _mirror(ET.parse(file).getroot())  # noqa: S314 - the user's own file
        except (OSError, ET.ParseError):
            continue
        if found is not None:
            return found
    return None


def fetch(address: str, jars: Sequence[Jar], into: Path) -> None:
    """Download `jars` into a folder, each checked against its hash before it is written.

    :raises BrokerFailedError: one could not be had, or is not what it was when it was pinned.
    """
    into.mkdir(parents=True, exist_ok=True)

    def one(jar: Jar) -> None:
        url = f"{address}/{jar.path}"
        try:
            with urllib.request.urlopen(url, timeout=REQUEST_TIMEOUT_S) as answer:  # noqa: S310 - see `repository`
                content = answer.read(JAR_BYTES_MAX + 1)
        except OSError as error:
            raise BrokerFailedError(f"{url} could not be downloaded: {error}") from None
        _check(jar, content, url)
        (into / jar.name).write_bytes(content)

    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        for _ in pool.map(one, jars):
            pass


def check(jars: Sequence[Jar], libs: Path) -> None:
    """Whether a folder holds these jars and no other, whoever brought them.

    :raises BrokerFailedError: names the first that differs.
    """
    here = {file.name for file in libs.glob("*.jar")}
    wanted = {jar.name for jar in jars}
    if here != wanted:
        raise BrokerFailedError(
            f"{libs} holds other jars than those that were pinned: {', '.join(sorted(here ^ wanted))}"
        )
    for jar in jars:
        _check(jar, (libs / jar.name).read_bytes(), str(libs / jar.name))


def _check(jar: Jar, content: bytes, where: str) -> None:
    got = hashlib.sha256(content).hexdigest()
    if got != jar.sha256:
        raise BrokerFailedError(f"{where} is not the jar that was pinned: its sha256 is {got}, expected {jar.sha256}")


def _mirror(settings: ET.Element) -> str | None:
    for mirror in settings.iterfind("{*}mirrors/{*}mirror"):
        url = (mirror.findtext("{*}url") or "").strip().rstrip("/")
        blocked = (mirror.findtext("{*}blocked") or "").strip() == "true"
        mirrored = {part.strip() for part in (mirror.findtext("{*}mirrorOf") or "").split(",")}
        usable = url.startswith(("https://", "http://")) and "${" not in url  # `${env.X}` is Maven's own to resolve
        if usable and not blocked and mirrored & CENTRAL and "!central" not in mirrored:
            return url
    return None
