"""One class name, one meaning; constructors and files are no larger than a reader keeps in mind."""

import ast
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("schemas", "streams", "receiver", "backstop")
PARAMETERS_MAX: Final = 8
"""Of a constructor that is written out. More of them are a thing of their own, with a name."""

LINES_MAX: Final = 400

NOT_OURS: Final = {"PartitionRecords"}
"""Its constructor has the parameters that aiokafka calls it with."""


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_no_two_classes_have_the_same_name() -> None:
    places = defaultdict(list)
    for place, node in classes():
        places[node.name].append(place)
    assert len(places) > 500
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_constructor_has_more_parameters_than_a_reader_keeps_in_mind() -> None:
    counts = {
        f"{place} {node.name}": len([*each.args.posonlyargs, *each.args.args, *each.args.kwonlyargs]) - 1
        for place, node in classes()
        for each in node.body
        if isinstance(each, ast.FunctionDef) and each.name == "__init__" and node.name not in NOT_OURS
    }
    assert {place: count for place, count in counts.items() if count > PARAMETERS_MAX} == {}


def test_no_file_has_more_lines_than_a_reader_keeps_in_mind() -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.py"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    sizes = {name: (ROOT / name).read_text().count("\n") for name in names if (ROOT / name).is_file()}
    assert len(sizes) > 900
    assert {name: lines for name, lines in sizes.items() if lines > LINES_MAX} == {}
