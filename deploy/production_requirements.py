"""Prints the part of requirements.lock that one image needs, with hashes, so that it contains no developers' tools.

    python deploy/production_requirements.py runtime | build

`runtime` starts from [project] dependencies and the extras `s3`, `gcs`, `otel` and `encryption`, `build` from
[build-system] requires. The lock lists the dependents of each package ("# via"), so the needed packages are
known without a package index. Standard library only.
"""

import re
import sys
import tomllib
from pathlib import Path

IN_IMAGE = ("s3", "gcs", "otel", "encryption")
ROOT = Path(__file__).resolve().parents[1]


def canonical(name: str) -> str:
    """The name in PEP 503's form, without version, extras and markers."""
    found = re.match(r"[A-Za-z0-9._-]+", name.strip())
    assert found is not None, name
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def entries(lock: str) -> dict[str, str]:
    """The lines of each package, by its name."""
    starts = re.split(r"(?m)^(?=[A-Za-z0-9])", lock)
    return {canonical(entry): entry for entry in starts if "==" in entry}


def asked_by(entry: str) -> set[str]:
    """The dependents of the package of `entry`: the lines below its `# via`."""
    notes = re.findall(r"(?m)^\s+#\s+(.*)$", entry)
    return {canonical(note.removeprefix("via ").strip()) for note in notes if note.strip() != "via"}


def reachable(lock: str, roots: set[str]) -> dict[str, str]:
    """The entries of `roots` and of everything that they need; KeyError where the lock lacks a root."""
    every = entries(lock)
    kept = {name: every[name] for name in roots}
    while more := {name: entry for name, entry in every.items() if name not in kept and asked_by(entry) & kept.keys()}:
        kept |= more
    return dict(sorted(kept.items()))


def roots(project: str, part: str) -> set[str]:
    """The requirements in pyproject.toml for the part of that name. The image supports each setting, so also a
    bucket, a collector of traces, and bodies encrypted at rest.
    """
    read = tomllib.loads(project)
    extras = read["project"]["optional-dependencies"]
    asked = {
        "runtime": read["project"]["dependencies"] + [one for name in IN_IMAGE for one in extras[name]],
        "build": read["build-system"]["requires"],
    }
    return {canonical(one) for one in asked[part]}


def main(part: str) -> None:
    project, lock = (ROOT / "pyproject.toml").read_text(), (ROOT / "requirements.lock").read_text()
    sys.stdout.write("".join(reachable(lock, roots(project, part)).values()))


if __name__ == "__main__":
    main(sys.argv[1])
