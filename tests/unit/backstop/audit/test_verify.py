"""`verify` names each planted difference with both sides, and proves an intact system."""

import threading
from dataclasses import replace

import pytest

from backstop.audit.refold import changelog
from backstop.audit.report import Report
from schemas.codec import canonical, encode
from schemas.erasures import JobErased, without_content
from schemas.requests import TIMEOUT_MS_MAX
from schemas.results import RESULT
from streams.fold.rows import decode_row, encode_row
from tests.support import builders as b
from tests.unit.backstop.audit.world import World, result_of


def found(report: Report) -> list[tuple[str, str, str]]:
    return [(difference.check, difference.kind, difference.key) for difference in report.differences]


@pytest.fixture
def world() -> World:
    return World("a", "b", "c", "d")


def test_a_system_that_is_as_its_logs_say_is_proved(world: World) -> None:
    world.tell(b.submitted(job_id="open"))
    world.work()
    report = world.verify(read_model=world.read_model())
    assert (report.verdict, report.complete, report.counts) == ("proved", True, {})
    assert all(partition.equal for partition in report.partitions)
    assert sum(partition.rows for partition in report.partitions) == 9
    assert report.read_model_rows == 5
    assert report.outputs["results"] == {"matched": 4, "repeats": 0}
    assert report.outputs["submissions"] == {"matched": 5, "repeats": 0}
    assert report.outputs["responses"]["matched"] == report.outputs["jobs"]["matched"] == 4


def test_a_row_with_another_byte_differs_and_both_sides_are_shown(world: World) -> None:
    row = world.row("jobs", "b")
    state, offset = decode_row(row.value or b"")
    world.replace(row, value=encode_row(state.replace(b'"completed"', b'"cancelled"'), offset))
    report = world.verify()
    assert report.verdict == "differs"
    assert report.counts == {"table differs": 1}
    (difference,) = report.differences
    assert (difference.key, difference.partition) == ("jobs/b", row.partition)
    assert [(f.path, f.expected, f.found) for f in difference.fields] == [
        ("state.outcome", '"completed"', '"cancelled"')
    ]
    assert sum(not partition.equal for partition in report.partitions) == 1


def test_a_prompt_that_differs_is_not_printed() -> None:
    world = World()
    world.tell(b.submitted(job_id="a"))
    world.work()
    row = world.row("jobs", "a")
    world.replace(row, value=(row.value or b"").replace(b'"hello"', b'"a secret"'))
    report = world.verify()
    assert report.counts == {"table differs": 1}
    assert "hello" not in str(report.as_json())
    assert "secret" not in str(report.as_json())
    assert report.differences[0].fields[0].path == "state.spec.request.value.input"


def test_a_row_that_the_log_does_not_make_is_extra(world: World) -> None:
    world.append((changelog("responses"), 0), b"resp_ghost", encode_row(canonical({"kind": "ended"}), 3), b.T0)
    assert found(world.verify()) == [("table", "extra", "responses/resp_ghost")]


def test_a_row_that_was_lost_is_missing(world: World) -> None:
    row = world.row("responses", "resp_c")
    world.append((row.topic, row.partition), row.key, None, b.T0)
    assert found(world.verify()) == [("table", "missing", "responses/resp_c")]


def test_only_the_last_record_of_a_key_on_the_changelog_counts(world: World) -> None:
    """The earlier records are older versions, any of which compaction may have removed."""
    for record in world.topic(changelog("jobs")):
        if record != world.row("jobs", (record.key or b"").decode()):
            world.replace(record, value=b"0 {}")
    assert world.verify().verdict == "proved"


def test_a_result_that_is_not_there_is_missing(world: World) -> None:
    (result,) = [record for record in world.topic("results") if record.key == b"a"]
    world.remove(result)
    report = world.verify()
    assert found(report) == [("results", "missing", "a")]
    assert report.outputs["results"]["matched"] == 3


def test_a_second_result_of_a_job_is_a_duplicate_though_its_bytes_are_equal(world: World) -> None:
    (result,) = [record for record in world.topic("results") if record.key == b"b"]
    world.append(("results", result.partition), result.key, result.value, b.T0)
    report = world.verify()
    assert found(report) == [("results", "duplicate", "b")]
    assert report.outputs["results"]["repeats"] == 1


def test_a_result_with_other_bytes_differs(world: World) -> None:
    (result,) = [record for record in world.topic("results") if record.key == b"b"]
    world.replace(result, value=encode(result_of(result).model_copy(update={"outcome": "failed"})))
    assert found(world.verify()) == [("results", "differs", "b")]


def test_a_result_of_a_job_that_the_log_does_not_end_is_extra(world: World) -> None:
    result = result_of(world.topic("results")[0]).model_copy(update={"job_id": "unknown"})
    world.tell(result)
    assert found(world.verify()) == [("results", "extra", "unknown")]


def test_a_result_that_was_erased_is_neither_missing_nor_proved(world: World) -> None:
    (result,) = [record for record in world.topic("results") if record.key == b"b"]
    world.replace(result, value=None)
    report = world.verify()
    assert (report.counts, report.not_covered) == ({}, {"outputs on results": 1})
    assert not report.complete


def test_a_command_that_was_never_sent_is_missing_and_one_sent_twice_is_counted(world: World) -> None:
    first, second = world.topic("submissions")[:2]
    world.replace(first, value=second.value, key=second.key)
    report = world.verify()
    assert found(report) == [("submissions", "missing", f"{(first.key or b'').decode()}/1/create")]
    assert report.outputs["submissions"]["repeats"] == 1


@pytest.mark.parametrize(("topic", "kind"), [("responses", b"response_claimed"), ("jobs", b"attempt_settled")])
def test_a_fact_that_one_fold_owed_the_other_log_is_missing(world: World, topic: str, kind: bytes) -> None:
    """Its effects are missing too; the report names the first cause."""
    (fact,) = [r for r in world.topic(topic) if kind in (r.value or b"") and b'"job_id":"a"' in (r.value or b"")]
    world.replace(fact, value=b.job_timer(1, job_id="zz").model_dump_json().encode(), key=b"zz")
    names = [(check, key) for check, kind_, key in found(world.verify()) if kind_ == "missing"]
    assert (topic, "resp_a/claimed" if topic == "responses" else "resp_a/settled") in names


def test_a_record_that_cannot_be_read_needs_its_dead_letter(world: World) -> None:
    world.append(("jobs", 1), b"x", b"not json", b.T0)
    world.work()
    assert world.verify().counts == {}
    (letter,) = world.topic("dead-letters")
    world.replace(letter, value=b"{}")
    assert [difference.key for difference in world.verify().differences] == [
        f"jobs:1:{len(world.records['jobs', 1]) - 1}"
    ]


def test_rows_of_the_read_model_that_are_not_the_fold_are_named(world: World) -> None:
    model = world.read_model()
    stale = replace(model.rows["b"], status="running", result_sha256=None)
    rows = {job_id: row for job_id, row in model.rows.items() if job_id != "c"} | {"b": stale, "ghost": model.rows["a"]}
    report = world.verify(read_model=replace(model, rows=rows, submitted_at_ms=dict.fromkeys(rows, b.T0)))
    assert found(report) == [
        ("read_model", "differs", "b"), ("read_model", "missing", "c"), ("read_model", "extra", "ghost")
    ]  # fmt: skip
    assert [f.path for f in report.differences[0].fields] == ["status", "result_sha256"]


def test_a_read_model_that_is_behind_is_compared_as_of_where_it_is(world: World) -> None:
    model = world.read_model()
    world.whole_job("later")
    report = world.verify(read_model=model)
    assert (report.counts, report.read_model_rows) == ({}, 4)


def test_a_table_that_is_behind_its_log_is_given_time_and_then_differs(world: World) -> None:
    world.tell(b.submitted(job_id="waits"))
    report = world.verify(settle_s=0.3)
    assert set(found(report)) == {("table", "missing", "jobs/waits"), ("submissions", "missing", "waits/1/create")}
    assert report.rounds > 1

    catching_up = threading.Timer(0.3, world.work)
    catching_up.start()
    try:
        report = world.verify(settle_s=30)
    finally:
        catching_up.join()
    assert (report.verdict, report.rounds > 1) == ("proved", True)


def test_a_table_that_is_ahead_of_what_was_read_is_read_after(world: World) -> None:
    """A row of a fact written after the log's end was read: the next round has read the fact."""
    newer = b.submitted(job_id="new")
    ahead = World("a", "b", "c", "d")
    ahead.tell(newer)
    ahead.work()
    for record in ahead.topic(changelog("jobs")):
        if record.key == b"new":
            world.append((record.topic, record.partition), record.key, record.value, b.T0)
    assert found(world.verify()) == [("table", "extra", "jobs/new")]

    def catch_up() -> None:
        world.tell(newer)
        world.work()

    catching_up = threading.Timer(0.3, catch_up)
    catching_up.start()
    try:
        assert world.verify(settle_s=30).verdict == "proved"
    finally:
        catching_up.join()


def test_a_cut_log_is_proved_as_far_as_it_reaches_and_says_so(world: World) -> None:
    """Retention has removed the first facts of the old jobs. A job submitted long after that is judged as usual."""
    for at in [*world.partitions("jobs"), *world.partitions("responses"), *world.partitions("submissions")]:
        world.begin[at] = min(2, len(world.records[at]))
    late_ms = b.T0 + TIMEOUT_MS_MAX + b.FORGET_AFTER + 100_000
    world.whole_job("late", late_ms)
    report = world.verify()
    assert (report.verdict, report.complete) == ("proved", False)
    assert report.not_covered["rows of jobs"] >= 1
    assert "retention has truncated the logs" in report.warnings[0]

    row = world.row("jobs", "late")
    world.replace(row, value=(row.value or b"").replace(b'"completed"', b'"cancelled"'))
    assert found(world.verify()) == [("table", "differs", "jobs/late")]


def test_a_job_that_was_erased_is_proved_and_a_row_altered_after_it_is_named(world: World) -> None:
    (result,) = [r for r in world.topic("results") if r.key == b"b"]
    told = RESULT.validate_json(result.value or b"")
    at_ms = b.T0 + 9_000
    world.put("results", b"b", None)
    world.tell(
        JobErased(
            id="b/erased", at_ms=at_ms, job_id="b", tenant=told.tenant, erasure_id="erasure_1", by="Ann", why="asked",
            result=without_content(told, at_ms),
        )
    )  # fmt: skip
    world.work()
    rows = world.read_model()
    assert world.verify(read_model=rows).verdict == "proved"
    altered = replace(rows, rows={**rows.rows, "b": replace(rows.rows["b"], result_sha256="0" * 64)})
    assert found(world.verify(read_model=altered)) == [("read_model", "differs", "b")]
    world.remove(result)
    assert world.verify(read_model=rows).verdict == "proved"
