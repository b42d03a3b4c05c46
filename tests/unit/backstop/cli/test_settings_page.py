"""The reference of the settings is what the processes declare."""

from pathlib import Path

from backstop.cli.settings_page import page

DOCS = Path(__file__).parents[4] / "docs" / "settings.md"


def test_the_page_of_settings_is_made_from_the_declarations() -> None:
    assert DOCS.read_text() == page(), "run: python -m backstop.cli.settings_page > docs/settings.md"


def test_every_setting_says_what_it_is() -> None:
    rows = [line.split("|") for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert [row[1] for row in rows if len(row[3].strip()) < 10] == []
