"""Closed sets are declared once, in `schemas`. These tests compare the copies that neither mypy nor SQL checks.

`test_added_members` adds members and expects alarms.
"""

import hashlib
import re
import sqlite3
from pathlib import Path
from typing import Any, get_args

import pytest

from backstop.audit.timeline import SHOWN
from backstop.outgoing.deliveries import event_of
from backstop.readmodel.figures import FoundView
from backstop.readmodel.schema import SCHEMA_VERSION, statements
from backstop.readmodel.sweep import sweep
from backstop.simulator import records
from receiver.reads.overview_routes import FindingCode
from receiver.responses_api.ends import failure_of
from schemas.base import TENANT_ID_PATTERN, FoundBy
from schemas.commands import PollCommand
from schemas.jobs import JobFact
from schemas.responses import ResponseFact
from schemas.statuses import (
    END_RESPONSE_STATUSES,
    JOB_OUTCOMES,
    JOB_STATUSES,
    OPEN_JOB_STATUSES,
    RESPONSE_STATUSES,
    WAITS_FOR,
    JobOutcome,
    OpenJobStatus,
    has_answer,
    response_status,
)
from schemas.webhook_endpoints import EVENT_TYPES

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "backstop" / "page" / "static"

TABLES_OF_VERSION = {10: "c881ec4f385d89b5"}
"""Digest of the statements that make the tables. A new digest needs a new version: older databases lack the change."""


def keys_of(script: str, table: str) -> list[str]:
    """The keys of `const TABLE = {…};` in a script of the page, in order."""
    found = re.search(rf"const {table} = {{\n(.*?)\n}};", (STATIC / script).read_text(), re.DOTALL)
    assert found is not None, f"{script} has no table {table}"
    return re.findall(r'^  "?([\w/]+)"?: ', found.group(1), re.MULTILINE)


def types_of(union: Any) -> set[str]:
    members = get_args(get_args(union)[0])
    return {member.model_fields["type"].default for member in members}


def test_the_page_knows_what_a_tenants_name_may_be() -> None:
    found = re.search(r'^const TENANT = "(.*)";$', (STATIC / "app.js").read_text(), re.MULTILINE)
    assert found is not None
    assert f"^{found[1].encode().decode('unicode_escape')}$" == TENANT_ID_PATTERN


def test_the_page_names_each_status_and_knows_which_are_open() -> None:
    assert set(keys_of("words.js", "STATUS")) == set(JOB_STATUSES)
    words = (STATIC / "words.js").read_text()
    named = re.search(r"export const OPEN = \[(.*?)\];", words)
    assert named is not None
    assert re.findall(r'"(\w+)"', named.group(1)) == list(OPEN_JOB_STATUSES)
    assert set(keys_of("words.js", "WAITS")) == set(WAITS_FOR)


def test_the_page_tells_each_kind_of_fact_and_each_finding() -> None:
    told = {kind.rpartition("/")[2] for kind in keys_of("facts.js", "KINDS")}
    assert told == types_of(JobFact) | types_of(ResponseFact) | {"job_result"}
    assert set(keys_of("findings.js", "FINDINGS")) == set(get_args(FindingCode))


def test_the_audit_tells_each_kind_of_record() -> None:
    assert set(SHOWN) == types_of(JobFact) | types_of(ResponseFact) | types_of(PollCommand) | {
        "create_response",
        "job_result",
    }


def test_the_simulator_knows_each_status_of_a_response() -> None:
    assert set(get_args(records.Status)) == set(RESPONSE_STATUSES)


def test_each_end_of_a_response_has_an_event_type_and_each_event_type_an_end() -> None:
    assert list(EVENT_TYPES) == [f"response.{status}" for status in END_RESPONSE_STATUSES]
    assert {event_of(outcome) for outcome in JOB_OUTCOMES} == set(EVENT_TYPES)


def test_the_figures_count_each_way_to_find_an_end() -> None:
    assert FoundView.__required_keys__ == {*get_args(FoundBy), "missed"}


def test_the_documents_name_each_outcome() -> None:
    named = set(re.findall(r"`(\w+)`", (ROOT / "README.md").read_text()))
    assert set(JOB_OUTCOMES) <= named


@pytest.mark.parametrize("outcome", JOB_OUTCOMES)
def test_each_outcome_is_an_answer_or_an_error_of_the_responses_api(outcome: JobOutcome) -> None:
    assert response_status(outcome) in END_RESPONSE_STATUSES
    assert (failure_of({}, outcome) is None) == has_answer(outcome)


def test_other_tables_are_another_version_of_the_read_model() -> None:
    made = " ".join(" ".join((*statements("sqlite"), *statements("postgres"))).split())
    assert {SCHEMA_VERSION: hashlib.sha256(made.encode()).hexdigest()[:16]} == TABLES_OF_VERSION


def database(status: str) -> sqlite3.Connection:
    """A read model with one job of this status, long past its deadline."""
    conn = sqlite3.connect(":memory:")
    for statement in statements("sqlite"):
        conn.execute(statement)
    conn.execute(
        "INSERT INTO jobs (job_id, tenant, status, version, fold_state, submitted_at_ms, updated_at_ms, topic, part, "
        "log_offset, tags, deadline_at_ms, next_action_at_ms, attempts) "
        "VALUES ('j', 'default', ?, 1, x'', 1, 1, 'jobs', 0, 0, '[]', 2, 2, 1)",
        (status,),
    )
    return conn


class Rows:
    """As `backstop.readmodel.database.Connection` reads."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def rows(self, query: str, params: Any = ()) -> list[tuple[Any, ...]]:
        return self._conn.execute(query, tuple(params)).fetchall()


@pytest.mark.parametrize("status", OPEN_JOB_STATUSES)
def test_the_sweep_sees_each_open_status_that_does_not_move(status: OpenJobStatus) -> None:
    day_ms = 86_400_000
    found = sweep(Rows(database(status)), day_ms, 1_000)  # type: ignore[arg-type]  # it only reads
    assert found.open_by_status == {status: 1}
    assert not found.clean


@pytest.mark.parametrize("outcome", JOB_OUTCOMES)
def test_a_row_of_each_outcome_is_final(outcome: JobOutcome) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="jobs_end_once"):
        database(outcome).execute("UPDATE jobs SET version = 2, status = 'running'")


def test_the_database_refuses_a_status_that_is_none() -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        database("zz_new")
