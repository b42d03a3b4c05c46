"""What the statements of the read model rely on."""

from collections.abc import Sequence
from typing import cast

import pytest

from backstop.readmodel.batch import Fact
from backstop.readmodel.in_lists import IN_LIST_MAX, in_lists
from backstop.readmodel.project import evolve, settle
from backstop.readmodel.rows import HeldResult, JobRow, Position
from backstop.readmodel.store import SET_ONCE
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
