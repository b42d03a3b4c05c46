"""Writes backstop/dev/broker/jars.txt: each jar that the pom beside it resolves to, with its sha256 and Maven path.

    python deploy/lock_jars.py

Maven resolves into an empty repository, so each file there is needed. Needs mvn; standard library only.
"""

import hashlib
import subprocess
import tempfile
from pathlib import Path

BROKER = Path(__file__).resolve().parents[1] / "runtime" / "broker"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        repository, libs = Path(folder) / "repository", Path(folder) / "libs"
        subprocess.run(  # noqa: S603 - arguments of our own
            ["mvn", "-q", "-B", "-f", str(BROKER / "pom.xml"),  # noqa: S607 - from the PATH
             f"-Dmaven.repo.local={repository}", "dependency:copy-dependencies", f"-DoutputDirectory={libs}"],
            check=True,
        )  # fmt: skip
        lines = []
        for jar in libs.glob("*.jar"):
            (found,) = repository.rglob(jar.name)
            lines.append((found.relative_to(repository).as_posix(), hashlib.sha256(jar.read_bytes()).hexdigest()))
    (BROKER / "jars.txt").write_text("".join(f"{sha256}  {path}\n" for path, sha256 in sorted(lines)))


if __name__ == "__main__":
    main()
