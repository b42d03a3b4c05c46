"""What a release and a scan say where something is missing, and that what calls make calls what is there."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from backstop.dev.broker import docker

ROOT = Path(__file__).resolve().parents[2]
RELEASE = runpy.run_path(str(ROOT / "deploy" / "release.py"))
SCAN = runpy.run_path(str(ROOT / "deploy" / "scan.py"))
CLEAN = {"name": "aiohttp", "version": "3.14.0", "vulns": []}
FLAWED = {"name": "faust", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([CLEAN], 0, "1 packages asked about, 0 known vulnerabilities"),
        ([CLEAN, FLAWED], 1, "faust 1: X-1; fixed in: 2"),
        ([], 3, "NOT SCANNED"),
        ([CLEAN, {"name": "mode", "skip_reason": "not found"}], 3, "NOT SCANNED"),
    ],
)
def test_a_scan_counts_only_where_every_package_was_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], packages: list[dict[str, Any]], code: int, said: str
) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"dependencies": packages, "fixes": []}))
    assert SCAN["judge"](tmp_path / "report.json", "") == code
    printed = capsys.readouterr()
    assert said in printed.out + printed.err


@pytest.mark.parametrize("content", [None, "", "{}", "<html>"])
def test_a_database_that_did_not_answer_is_told_loudly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    assert SCAN["judge"](tmp_path / "report.json", "no route to host") == 3
    assert capsys.readouterr().err.splitlines() == [
        "NOT SCANNED: the database of vulnerabilities did not answer for all packages.",
        "no route to host",
    ]


def test_a_release_of_another_version_than_the_project_has_is_refused() -> None:
    against = RELEASE["reasons_against"]("99.0.0")
    assert f"pyproject.toml says {RELEASE['project']()['version']}, the release is to be 99.0.0" in against
    assert "CHANGELOG.md has no section `## 99.0.0`" in against


FOREIGN_IMAGE = re.compile(r"(?m)^(?: *image: |ARG PYTHON_IMAGE=|IMAGE = \")([a-z][^\s\"]*)")
"""In Dockerfile, compose file and the local broker's module."""
OWN_IMAGES = {"backstop"}
NAMES_IMAGES = ("deploy/Dockerfile", "docker-compose.kafka.yml", "backstop/dev/broker/docker.py")


@pytest.mark.parametrize("path", NAMES_IMAGES)
def test_images_of_others_are_named_by_digest_beside_their_tag(path: str) -> None:
    named = set(FOREIGN_IMAGE.findall((ROOT / path).read_text())) - OWN_IMAGES
    assert named
    for image in named:
        assert re.fullmatch(r"[a-z0-9/]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}", image), image


def test_compose_and_the_local_broker_run_one_kafka() -> None:
    images = {RELEASE["found"](RELEASE["KAFKA_IMAGE"], "docker-compose.kafka.yml"), docker.IMAGE}
    assert len(images) == 1


def test_actions_of_others_are_named_by_commit_beside_their_version() -> None:
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        used = re.findall(r"(?m)^ *- uses: (.*)$", path.read_text())
        assert used, path
        for action in used:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", action), action


def test_the_images_that_a_release_pins_are_found_where_they_are_named() -> None:
    assert RELEASE["found"](RELEASE["PYTHON_IMAGE"], "deploy/Dockerfile").startswith("python:")
    assert RELEASE["found"](RELEASE["KAFKA_IMAGE"], "docker-compose.kafka.yml").startswith("apache/kafka:")


def test_ci_runs_nothing_but_targets_of_make() -> None:
    targets = set(re.findall(r"(?m)^([a-z][a-z-]*):", (ROOT / "Makefile").read_text()))
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    runs = re.findall(r"(?m)^ +- run: (.*)$", workflow)
    assert runs
    for line in runs:
        command, target, *rest = line.split()
        assert (command, target in targets) == ("make", True), line
        assert all("=" in part for part in rest), line


def test_the_webhooks_are_local_and_are_the_checks_of_lint() -> None:
    webhooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"(?m)^ *- repo: (.*)$", webhooks) == ["local"]
    called = set(re.findall(r"(?m)^ +entry: \.venv/bin/(\S+)", webhooks))
    assert called == {"ruff", "mypy", "lint-imports"}
