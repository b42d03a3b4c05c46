"""Hooks of the docs site (`mkdocs.yml`): pages of the repository's root join those of `docs/`, so that no text stands
twice. Links between them are turned; a link to a file that is no page becomes the file's name.
"""

import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "ARCHITECTURE.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "examples/README.md": "examples.md",
}
"""Page of the repository → its place in the site."""

_LINK: Final = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    for source, target in PAGES.items():
        text = _turned((ROOT / source).read_text(encoding="utf-8"), (ROOT / source).parent)
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri in PAGES.values():
        return markdown
    return _turned(markdown, (ROOT / "docs" / page.file.src_uri).parent)


def _turned(markdown: str, folder: Path) -> str:
    """Links of a page in `folder`, turned to what they are in the site."""

    def turn(link: re.Match[str]) -> str:
        image, text, path, anchor = link.groups(default="")
        target = (folder / path).resolve()
        name = target.relative_to(ROOT).as_posix()
        if name in PAGES:
            place = PAGES[name]
        elif target.is_file() and name.startswith("docs/"):
            place = name.removeprefix("docs/")
        else:
            return f"{text} (`{name}`)"
        up = "../" if folder.parent == ROOT / "docs" else ""  # decisions, diagrams
        return f"{image}[{text}]({up}{place}{anchor})"

    return _LINK.sub(turn, markdown)
