"""No module imports another that imports it, at whatever distance; imports inside functions count, too."""

import tomllib
from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]


def circle(imports: Mapping[str, Collection[str]]) -> list[str]:
    """The modules of one circle; none where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_two_modules_import_each_other() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    graph = grimp.build_graph(*packages, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 300
    assert circle(imports) == []


@pytest.mark.parametrize("size", [2, 5])
def test_a_circle_is_found_at_any_distance(size: int) -> None:
    imports = {f"m{number}": {f"m{(number + 1) % size}"} for number in range(size)}
    assert set(circle(imports)) == set(imports)
