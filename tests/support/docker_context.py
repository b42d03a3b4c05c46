"""What `docker build` sends of a checkout: a .dockerignore read as Docker reads it (moby/patternmatcher)."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

NEVER_SENT = {".git", ".venv", ".venv-providers", "node_modules", "__pycache__"}
"""Folders that are large, and that the last pattern refuses: not walked."""


def context(root: Path, ignore_file: Path) -> list[str]:
    """The files that are sent, relative to `root`."""
    patterns = [line.strip() for line in ignore_file.read_text().splitlines()]
    rules = [
        (not line.startswith("!"), _expression(line.removeprefix("!").strip("/")))
        for line in patterns
        if line and not line.startswith("#")
    ]
    return [path for path in _files(root) if not _ignored(path, rules)]


def copy_context(root: Path, ignore_file: Path, into: Path) -> Path:
    for path in context(root, ignore_file):
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, into / path)
    return into


def _files(root: Path, below: str = "") -> Iterator[str]:
    for entry in sorted((root / below).iterdir()):
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir() and entry.name not in NEVER_SENT:
            yield from _files(root, path)
        elif entry.is_file():
            yield path


def _ignored(path: str, rules: list[tuple[bool, re.Pattern[str]]]) -> bool:
    """The last rule that matches the path or a folder above it decides."""
    names = [path, *map(str, PurePosixPath(path).parents)][:-1]
    ignored = False
    for ignores, expression in rules:
        if any(expression.fullmatch(name) for name in names):
            ignored = ignores
    return ignored


def _expression(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meaning.get(part, re.escape(part)) for part in parts))
