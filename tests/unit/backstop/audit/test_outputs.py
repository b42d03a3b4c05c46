"""The audit looks for each fact that a fold writes to the other log."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from backstop.audit.outputs import _OUTPUTS_ON_LOGS
from schemas.jobs import JobFact
from schemas.responses import ResponseFact

FOLD = Path(__file__).parents[4] / "streams/fold"


def made_by_folds() -> Iterator[str]:
    """The names of what the folds construct."""
    for file in FOLD.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                yield node.func.id


@pytest.mark.parametrize(("topic", "facts"), [("jobs", JobFact), ("responses", ResponseFact)])
def test_each_fact_that_a_fold_makes_is_looked_for(topic: str, facts: object) -> None:
    kinds = {kind.__name__: kind for kind in get_args(get_args(facts)[0])}
    made = {kinds[name].model_fields["type"].default for name in set(made_by_folds()) & kinds.keys()}
    made -= {"timer_fired"}  # The scheduler writes it, and `audit.scheduled` judges it.
    assert made
    assert {f'"type":"{name}"'.encode() for name in made} == set(_OUTPUTS_ON_LOGS[topic])
