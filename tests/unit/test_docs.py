"""Each link of a page in this repository leads to a file, and to a heading of it where it names one."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)")
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
ELSEWHERE = ("http://", "https://", "mailto:")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page: words in lower case with hyphens, numbered if repeated."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCED.sub("", page.read_text())):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = sum(1 for other in found if re.fullmatch(rf"{re.escape(name)}(-\d+)?", other))
        found.add(f"{name}-{number}" if number else name)
    return found


def broken(page: Path) -> list[str]:
    missing = []
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if link.startswith(ELSEWHERE):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            missing.append(link)
    return missing


def test_each_link_leads_somewhere() -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.md"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    pages = [ROOT / name for name in names if (ROOT / name).is_file()]
    assert len(pages) > 50
    assert {str(page.relative_to(ROOT)): links for page in pages if (links := broken(page))} == {}


def test_the_readme_links_to_each_page() -> None:
    """Decisions and diagrams are linked from ARCHITECTURE."""
    linked = {link.partition("#")[0] for link in LINK.findall((ROOT / "README.md").read_text())}
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages - linked == set()


def test_the_architecture_links_to_each_decision() -> None:
    linked = set(LINK.findall((ROOT / "ARCHITECTURE.md").read_text()))
    assert {f"docs/decisions/{page.name}" for page in (ROOT / "docs" / "decisions").glob("*.md")} - linked == set()


MAP_ROW = re.compile(r"^\| (?:Where|When|What|How) [^|]*\| (.*) \|$", re.MULTILINE)
PLACE = re.compile(r"`([\w/]+\.py)`(?: \((`[^)]*)\))?")
TOLD = re.compile(r"`(?:\w+\.)?(\w+)`")


def test_each_place_of_the_map_is_there_and_defines_what_the_map_tells_of_it() -> None:
    """A name alone is a file of a folder that the row names; `NAME.py`, and a file "of its package", stand for many."""
    rows = MAP_ROW.findall((ROOT / "ARCHITECTURE.md").read_text())
    assert len(rows) > 20
    wrong: list[str] = []
    for row in rows:
        folders = {Path(place).parent for place, _ in PLACE.findall(row) if "/" in place}
        folders |= {Path(folder) for folder in re.findall(r"`([\w/]+)/`", row)}
        for place, told in PLACE.findall(row):
            files = [ROOT / place] if "/" in place else [ROOT / folder / place for folder in folders]
            text = "\n".join(file.read_text() for file in files if file.is_file())
            missing = [
                name
                for name in TOLD.findall(told)
                if not re.search(rf"^ *(?:async )?(?:def|class) {name}\b", text, re.MULTILINE)
            ]
            if missing or (not text and folders and "NAME" not in place):
                wrong.append(f"{place} {missing}")
    assert wrong == []


def test_each_page_has_its_place_in_the_site() -> None:
    """`make docs` builds it strictly; this is what it would find first."""
    site = (ROOT / "mkdocs.yml").read_text()
    placed = set(re.findall(r"^ +- (?:[A-Z]\w+: )?([\w-]+\.md)$", site, flags=re.MULTILINE))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= placed
