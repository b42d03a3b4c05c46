"""Makes a release, or rehearses one: `python deploy/release.py [VERSION] [--dry]` (`make release`, `make release
DRY=1`).

1. Refuses unless the tree is clean, pyproject.toml has VERSION, CHANGELOG.md has a section for it, and the tag is free.
2. Builds wheel and sdist of the committed tree, with the commit's time in them.
3. Writes the SBOM (CycloneDX) of the locked packages that the image is made of.
4. Where a container engine answers: builds the image from the base image's digest, and records all digests in
   images.txt. An image that is named by its tag alone is resolved first.
5. Writes SHA256SUMS over everything, and tags the commit. It uploads and pushes nothing.

A rehearsal does 1 to 4 and tags nothing; reasons for a refusal are printed, and it goes on. Standard library only; the
tools come from the environment that runs this program, and from the one that `--tools` names.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".venv-release" / "bin"
KAFKA_IMAGE = re.compile(r"(?m)^  image: (\S+)$")
PYTHON_IMAGE = re.compile(r"(?m)^ARG PYTHON_IMAGE=(\S+)$")


class RefusedError(Exception):
    """The reason why there is no release, as a sentence."""


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """The command's output.

    :raises RefusedError: the command failed.
    """
    done = subprocess.run(  # noqa: S603 - arguments of our own
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RefusedError(
            f"`{' '.join(str(part) for part in command)}` failed:\n{(done.stdout + done.stderr)[-2000:]}"
        )
    return done.stdout.strip()


def told(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def reasons_against(version: str) -> list[str]:
    """The reasons against a release of the current tree."""
    against = []
    if changed := run("git", "status", "--porcelain"):
        against.append(f"the tree is not clean:\n{changed}")
    if version != project()["version"]:
        against.append(f"pyproject.toml says {project()['version']}, the release is to be {version}")
    if not re.search(rf"(?m)^## \[?{re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text()):
        against.append(f"CHANGELOG.md has no section `## {version}`")
    if run("git", "tag", "--list", f"v{version}"):
        against.append(f"the tag v{version} is taken")
    return against


def project() -> dict[str, str]:
    read: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return read


def build(into: Path) -> None:
    """Build wheel and sdist of the last commit, without uncommitted files."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        archive = Path(folder) / "tree.tar"
        run("git", "archive", "--output", archive, "HEAD")
        shutil.unpack_archive(archive, tree, filter="data")
        epoch = run("git", "log", "-1", "--format=%ct")
        run(
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "-d",
            into,
            cwd=tree,
            env={**os.environ, "SOURCE_DATE_EPOCH": epoch},
        )


def describe(into: Path, tools: Path) -> None:
    """The SBOM of the image's packages."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write(run(sys.executable, "deploy/production_requirements.py", "runtime"))
        requirements.flush()
        run(tools / "cyclonedx-py", "requirements", requirements.name, "--pyproject", "pyproject.toml",
            "--mc-type", "application", "--output-reproducible", "--of", "JSON",
            "-o", into / "sbom.cdx.json")  # fmt: skip


def image(into: Path, version: str) -> None:
    """Build the image, and record it and its bases by digest. Prints a warning where no engine answers."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:  # noqa: S603
        told("NO IMAGE: no container engine answers here. images.txt is not written.")
        return
    python = found(PYTHON_IMAGE, "deploy/Dockerfile")
    pinned = {name: by_digest(docker, name) for name in (python, found(KAFKA_IMAGE, "docker-compose.kafka.yml"))}
    name = f"backstop-jobs:{version}"
    run(docker, "build", "-f", "deploy/Dockerfile", "--build-arg", f"PYTHON_IMAGE={pinned[python]}", "-t", name, ".",
        env={**os.environ, "DOCKER_BUILDKIT": "1"})  # fmt: skip
    built = run(docker, "image", "inspect", "--format", "{{.Id}}", name)
    (into / "images.txt").write_text("".join(f"{line}\n" for line in (f"{name} {built}", *pinned.values())))


def found(expression: re.Pattern[str], path: str) -> str:
    match = expression.search((ROOT / path).read_text())
    if match is None:
        raise RefusedError(f"{path} names no image")
    return match[1]


def by_digest(docker: str, name: str) -> str:
    if "@sha256:" in name:
        return name
    run(docker, "pull", "--quiet", name)
    digest = run(docker, "image", "inspect", "--format", "{{index .RepoDigests 0}}", name).rpartition("@")[2]
    return f"{name}@{digest}"


def sum_up(into: Path) -> None:
    files = sorted(path for path in into.iterdir() if path.name not in {"SHA256SUMS", ".gitignore"})
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (into / "SHA256SUMS").write_text("".join(lines))
    for path in files:
        told(f"{path.stat().st_size:>10,} bytes  {path.relative_to(ROOT)}")


def main() -> None:
    arguments = argparse.ArgumentParser(description="Make a release, or rehearse one.")
    arguments.add_argument("version", nargs="?", default=project()["version"])
    arguments.add_argument("--dry", action="store_true", help="rehearse: tag nothing")
    arguments.add_argument("--tools", type=Path, default=TOOLS, help="where cyclonedx-py is")
    chosen = arguments.parse_args()
    into = ROOT / "dist" / (f"rehearsal-{chosen.version}" if chosen.dry else chosen.version)
    try:
        against = reasons_against(chosen.version)
        for reason in against:
            told(f"{'A RELEASE WOULD BE REFUSED' if chosen.dry else 'REFUSED'}: {reason}")
        if against and not chosen.dry:
            sys.exit(1)
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        build(into)
        describe(into, chosen.tools)
        image(into, chosen.version)
        sum_up(into)
        if not chosen.dry:
            run("git", "tag", "--annotate", f"v{chosen.version}", "--message", f"Backstop {chosen.version}")
    except RefusedError as error:
        told(f"REFUSED: {error}")
        sys.exit(1)
    told(
        "rehearsed; nothing was tagged"
        if chosen.dry
        else f"tagged v{chosen.version}; push the tag, and upload {into.relative_to(ROOT)}"
    )


if __name__ == "__main__":
    main()
