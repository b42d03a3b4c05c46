"""The diagrams of states are what the folds do."""

from typing import get_args

import pytest

from schemas.jobs import JobFact
from schemas.responses import ResponseFact
from tests.support.state_diagrams import (
    ATTEMPT_NODES,
    FOLDER,
    JOB,
    JOB_NODES,
    PAGES,
    RESPONSE,
    RESPONSE_NODES,
    edges_of,
    edges_of_attempts,
)


@pytest.mark.parametrize("name", PAGES)
def test_each_page_of_states_is_made_from_the_folds(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name](), "run: make diagram"


@pytest.mark.parametrize(("machine", "union"), [(JOB, JobFact), (RESPONSE, ResponseFact)])
def test_the_search_folds_every_kind_of_fact(machine, union) -> None:
    kinds = {type(fact) for _, fact in machine.facts(machine.absent)}
    facts, *_ = get_args(union)
    # A timer needs a state that waits for it, and facts of attempts are made for the attempts that a state has.
    assert kinds == {kind for kind in get_args(facts) if not kind.__name__.endswith("TimerFired")}


def test_the_search_reaches_every_state() -> None:
    for edges, nodes in (
        (edges_of(JOB), JOB_NODES),
        (edges_of_attempts(), ATTEMPT_NODES),
        (edges_of(RESPONSE), RESPONSE_NODES),
    ):
        assert {node for pair in edges.facts for node in pair} == set(nodes)
