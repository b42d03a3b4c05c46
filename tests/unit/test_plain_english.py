"""Prose has a subject that is a part of the system, and lines of at most 120 columns. Tables of Markdown may be wider."""

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROSE = ("*.py", "*.md", "*.js", "*.css", "*.html", "*.toml", "*.yml", "*Makefile", "*Dockerfile")
OPENAPI = "docs/openapi.json"
NO_SUBJECT = re.compile(
    r"\b(?:no|some|any)(?:body|one)\b|\b[Nn]o one\b|\bwho(?:m?ever)\b|\bof two, "
    r"|(?:^[\s#/|>\"'-]*|[\"'(;:.]\s?|\b(?:for|by|to|as|of|than)\s)who (?!in\b)[a-z]",
    re.IGNORECASE,
)
"""Words and forms that hide the subject. ` who ` is one at the start of a clause: after a noun it is good English."""

FOREIGN_NAMES = ('known["nobody"]',)
"""Names that other systems chose: here a user of Unix."""

NOT_YET: dict[str, int] = {}
"""Paths that are not clean, each with its offences. A number may only shrink; a path that is not here has none."""


def texts(document: Any) -> list[str]:
    """What a reader of an OpenAPI document is told."""
    if isinstance(document, list):
        return [text for item in document for text in texts(item)]
    if not isinstance(document, dict):
        return []
    told = [text for key in ("summary", "description") if isinstance(text := document.get(key), str)]
    return told + [text for item in document.values() for text in texts(item)]


def hides_its_subject(line: str) -> bool:
    for name in FOREIGN_NAMES:
        line = line.replace(name, "")
    return NO_SUBJECT.search(line) is not None


def offences(path: Path) -> list[str]:
    """The lines of a file that break a rule, as `path:line: text`."""
    if path.suffix == ".json":
        return [f"{path}: {text}" for text in texts(json.loads((ROOT / path).read_text())) if NO_SUBJECT.search(text)]
    return [
        f"{path}:{number}: {line.strip()}"
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if hides_its_subject(line) or (len(line) > 120 and not (path.suffix == ".md" and line.lstrip().startswith("|")))
    ]


def room(path: Path) -> str:
    """What is counted as one: a file or a folder at the top; in `backstop` and `tests`, one level deeper."""
    return "/".join(path.parts[: 2 if path.parts[0] in {"backstop", "tests"} else 1])


def test_prose_names_its_subject_and_fits_120_columns() -> None:
    listed = [
        "git",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        *PROSE,
        OPENAPI,
        f":!tests/unit/{Path(__file__).name}",
        ":!docs/latency-report.html",  # Made by `backstop report latency`, for browsers.
    ]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    found = {name: offences(Path(name)) for name in names if (ROOT / name).is_file()}
    counts = Counter(room(Path(name)) for name, lines in found.items() for _ in lines)
    assert len(names) > 700
    worse = {place for place, count in counts.items() if count > NOT_YET.get(place, 0)}
    lines = [line for name, lines in found.items() if room(Path(name)) in worse for line in lines]
    assert not worse, f"{sorted(worse)} got worse: {len(lines)} lines:\n" + "\n".join(lines)
    assert dict(counts) == NOT_YET, f"Cleaner than recorded, so record it: NOT_YET = {dict(sorted(counts.items()))}"


def test_a_noun_before_who_is_the_subject() -> None:
    assert not NO_SUBJECT.search("Tell its sender, who must choose another id; operators who run it.")
    assert all(
        NO_SUBJECT.search(text) for text in ("Who waits is woken.", "told by who writes", "whoever asks; nobody")
    )
