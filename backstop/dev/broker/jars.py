"""Downloads Kafka's jars from any Maven repository, each checked against its pinned sha256; for machines without Maven.

`jars.txt` is made from the pom (`make lock-jars`). The address of the repository is a setting, or comes from Maven's
own settings; the project names none.
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
"""Values of `mirrorOf` in Maven's settings that cover Maven's central repository."""


@dataclass(frozen=True, slots=True)
class Jar:
    sha256: str
    path: str
    """The path below the repository, in Maven's layout."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def pinned(file: Path) -> tuple[Jar, ...]:
    """The jars listed in `file`, one per line: hash, path. Empty where there is no such file."""
    if not file.is_file():
        return ()
    return tuple(Jar(*line.split()) for line in file.read_text().splitlines())


def repository(environment: Mapping[str, str]) -> str | None:
    """The address in the setting; None where it is not set.

    :raises BrokerFailedError: the value is not an HTTP address.
    """
    named = environment.get(REPOSITORY_VARIABLE, "").strip().rstrip("/")
    if named and not named.startswith(("https://", "http://")):
        raise BrokerFailedError(
            f"{REPOSITORY_VARIABLE} must be the address of a Maven repository, starting with https:// or http://"
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
    """Download `jars` into a folder. Each is checked against its hash before it is written.

    :raises BrokerFailedError: a download failed, or a hash differs.
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
    """Check that a folder holds exactly these jars, from whatever source.

    :raises BrokerFailedError: a jar is missing, extra or different; names it.
    """
    here = {file.name for file in libs.glob("*.jar")}
    wanted = {jar.name for jar in jars}
    if here != wanted:
        raise BrokerFailedError(
            f"{libs} does not hold exactly the pinned jars; they differ in: {', '.join(sorted(here ^ wanted))}"
        )
    for jar in jars:
        _check(jar, (libs / jar.name).read_bytes(), str(libs / jar.name))


def _check(jar: Jar, content: bytes, where: str) -> None:
    got = hashlib.sha256(content).hexdigest()
    if got != jar.sha256:
        raise BrokerFailedError(f"{where} is not the pinned jar: its sha256 is {got}, expected {jar.sha256}")


def _mirror(settings: ET.Element) -> str | None:
    for mirror in settings.iterfind("{*}mirrors/{*}mirror"):
        url = (mirror.findtext("{*}url") or "").strip().rstrip("/")
        blocked = (mirror.findtext("{*}blocked") or "").strip() == "true"
        mirrored = {part.strip() for part in (mirror.findtext("{*}mirrorOf") or "").split(",")}
        usable = url.startswith(("https://", "http://")) and "${" not in url  # only Maven can resolve `${env.X}`
        if usable and not blocked and mirrored & CENTRAL and "!central" not in mirrored:
            return url
    return None
