"""What the first releases of CPython 3.11, which distributions still ship, do in another way."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = ("schemas", "streams", "receiver", "backstop")


def raised_in_groups(code: str) -> list[int]:
    """The lines of `except*` clauses that raise."""
    return [
        handler.lineno
        for each in ast.walk(ast.parse(code))
        if isinstance(each, ast.TryStar)
        for handler in each.handlers
        if any(isinstance(inner, ast.Raise) and inner.exc is not None for inner in ast.walk(handler))
    ]


def test_no_clause_for_groups_raises() -> None:
    """Before 3.11.4 the error would arrive in a group of one, which no caller catches."""
    files = [path for package in PRODUCT for path in (ROOT / package).rglob("*.py")]
    found = {str(path.relative_to(ROOT)): raised_in_groups(path.read_text()) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_a_clause_that_raises_is_found() -> None:
    assert raised_in_groups("try:\n    x()\nexcept* OSError:\n    raise KeyError from None\n") == [3]
    assert raised_in_groups("try:\n    x()\nexcept* OSError:\n    y()\n") == []
