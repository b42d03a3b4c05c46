"""What the statements of the read model rely on."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, cast

import pytest

from backstop.readmodel.batch import Fact
from backstop.readmodel.in_lists import IN_LIST_MAX, in_lists
from backstop.readmodel.lists import WALKED_A_ROW, JobFilter, list_rows
from backstop.readmodel.project import evolve, settle
from backstop.readmodel.rows import HeldResult, JobRow, Position
from backstop.readmodel.sqlite import SqliteConnection, connect, create
from backstop.readmodel.store import SET_ONCE
from bench.lists import Ask, questions
from schemas.codec import encode
from schemas.jobs import JobFact
from schemas.results import JobResult
from tests.unit.backstop.readmodel.logs import accepted, cancelled, result_of, settled, submitted, whole_job


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, IN_LIST_MAX, IN_LIST_MAX + 1, 3 * IN_LIST_MAX - 1])
def test_lists_of_ids_name_each_id_and_no_other(count: int) -> None:
    ids = [f"id-{n}" for n in range(count)]
    lists = list(in_lists(ids))
    assert list(dict.fromkeys(each for _, part in lists for each in part)) == ids
    assert all(marks.count("?") == len(part) <= IN_LIST_MAX for marks, part in lists)


def test_lists_of_ids_have_few_forms() -> None:
    forms = {marks for count in range(1, 2 * IN_LIST_MAX) for marks, _ in in_lists(["id"] * count)}
    assert len(forms) == IN_LIST_MAX.bit_length()


@pytest.mark.parametrize(
    "facts",
    [
        whole_job("j", "resp_1", tags=("a", "b")),
        (submitted(), cancelled(), result_of(submitted(), cancelled())),
        (submitted(session_id="s"), accepted(), settled(), result_of(submitted(), accepted(), settled())),
    ],
    ids=["whole", "cancelled", "of a session"],
)
def test_columns_that_an_update_leaves_out_never_change(facts: Sequence[Fact]) -> None:
    row: JobRow | None = None
    for offset, fact in enumerate(facts):
        position = Position(fact.topic, 0, offset)
        if isinstance(fact, JobResult):
            assert row is not None
            after: JobRow | None = settle(row, HeldResult(fact.job_id, fact.at_ms, encode(fact), position))
        elif fact.topic == "jobs":
            after = evolve(row, cast("JobFact", fact), position).row or row
        else:
            continue
        assert after is not None
        if row is not None:
            assert [getattr(after, name) for name in SET_ONCE] == [getattr(row, name) for name in SET_ONCE]
        row = after
    assert row is not None
    assert row.terminal


LARGE = {
    "jobs",
    "other",
    "claims",
    "job_tags",
    "timeline",
    "changes",
    "requests",
    "spends",
    "unclaimed",
    "costs",
    "refusals",
}
"""Tables, and another name of one, that grow with the number of jobs."""


class Explaining(SqliteConnection):
    """Collects how SQLite answers each question."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        super().__init__(raw)
        self.plans: list[str] = []

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        self.plans += [str(row[3]) for row in super().rows(f"EXPLAIN QUERY PLAN {sql}", params)]
        return super().rows(sql, params)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    file = tmp_path_factory.mktemp("plans") / "readmodel.db"
    create(file, 1)
    with closing(connect(file)) as raw:
        yield raw


@pytest.mark.parametrize("ask", [pytest.param(ask, id=name) for name, _, ask in questions(1_000)])
def test_no_question_walks_through_a_large_table(ask: Ask, empty: sqlite3.Connection) -> None:
    """Each list filter alone and with each other one, each search, the findings and the figures."""
    asked = Explaining(empty)
    ask(asked)
    assert asked.plans
    walked = {plan.split()[1] for plan in asked.plans if plan.startswith("SCAN ")}
    assert not walked & LARGE, asked.plans


@pytest.mark.parametrize("statuses", [(), ("completed", "failed", "cancelled", "expired", "incomplete")])
def test_a_list_walks_a_bounded_number_of_rows(statuses: tuple[str, ...], empty: sqlite3.Connection) -> None:
    """However many statuses are named: the sum of the limits of all walks is bounded by the page's length."""
    limits: list[int] = []

    class Limits(SqliteConnection):
        def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
            if "w WHERE" in sql:
                limits.append(params[-3])
            return super().rows(sql, params)

    list_rows(Limits(empty), JobFilter("t", statuses=statuses, tag="x", limit=50))
    assert sum(limits) == 50 * WALKED_A_ROW
