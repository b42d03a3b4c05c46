"""The audit on a real broker: what the system really did is proved, and what is planted into it is found."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from backstop.dev.broker import Owned
from tests.kafka.recorded import JOBS, PARTITIONS, Ran, Recorded, record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def history(broker: Owned, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("audit")
    return record(broker.bootstrap, f"audit-{folder.name}-{folder.parent.name}.", folder)


def test_what_the_system_did_is_proved_and_was_while_it_worked(history: Recorded) -> None:
    assert history.while_working is not None
    assert history.while_working.code == 0, history.while_working.out + history.while_working.err
    ran = history.backstop("audit", "verify", "-o", "json", "--quiet")
    assert ran.code == 0, ran.out + ran.err
    report = ran.json
    assert (report["verdict"], report["complete"], report["read_model_rows"]) == ("proved", True, JOBS + 2)
    assert all(partition["equal"] for partition in report["partitions"])
    assert len(report["partitions"]) == 2 * PARTITIONS
    assert report["outputs"]["results"] == {"matched": JOBS + 2, "repeats": 0}
    assert report["outputs"]["submissions"]["matched"] >= JOBS
    assert report["outputs"]["dead-letters"]["matched"] == 1
    assert sum(partition["poisons"] for partition in report["partitions"]) == 1
    assert ran.err == ""
    spoken = history.backstop("audit", "verify")
    assert "proved: " in spoken.out.splitlines()[-1]


def test_a_timeline_shows_where_each_record_of_a_job_stands(history: Recorded) -> None:
    ran = history.backstop("audit", "timeline", "job-3", "-o", "json")
    assert ran.code == 0, ran.err
    entries = ran.json
    kinds = [entry["kind"] for entry in entries]
    assert (kinds[0], kinds.count("job_result")) == ("job_submitted", 1)
    assert {"create_response", "attempt_accepted", "response_claimed", "attempt_settled"} <= set(kinds)
    by_place = {
        f"{topic}:{r.partition}:{r.offset}": r
        for topic in ("jobs", "results", "responses")
        for r in history.records(topic)
    }
    for entry in entries:
        if entry["topic"] in ("jobs", "results", "responses"):
            assert by_place[entry["place"]].key.decode() == entry["key"]
    assert "prompt 3" not in ran.out
    response_id = next(entry["summary"]["response_id"] for entry in entries if entry["kind"] == "attempt_accepted")
    assert history.backstop("audit", "timeline", response_id, "-o", "json", "--everywhere").json == entries
    assert history.backstop("audit", "timeline", response_id, "-o", "json").json == entries
    assert history.backstop("audit", "timeline", "unknown").code == 1


def test_a_history_by_places_is_that_of_whole_partitions(history: Recorded, tmp_path: Path) -> None:
    def told(job_id: str, *options: str, **environment: str) -> Ran:
        ran = history.backstop("audit", "timeline", job_id, "-o", "json", *options, **environment)
        assert ran.code == 0, ran.err
        return ran

    for job_id in ("job-4", "job-9"):
        by_places, whole = told(job_id), told(job_id, "--whole")
        assert (by_places.json, by_places.err) == (whole.json, "")
    # What the read model has not applied yet is read as well, and places of other logs are noticed.
    lagging, foreign = tmp_path / "lagging", tmp_path / "foreign"
    for folder, change in (
        (lagging, "DELETE FROM timeline WHERE topic <> 'jobs'"),
        (foreign, "UPDATE timeline SET log_offset = log_offset + 1"),
    ):
        folder.mkdir()
        for file in history.folder.glob("readmodel*"):
            shutil.copy(file, folder, follow_symlinks=False)
        with closing(sqlite3.connect(folder / "readmodel.db")) as db, db:
            db.execute(change)
            db.execute("UPDATE consumer_offsets SET next_offset = 0 WHERE topic <> 'jobs'")
    expected = told("job-3", "--whole").json
    behind = told("job-3", BACKSTOP_DATA_DIR=str(lagging))
    assert (behind.json, behind.err) == (expected, "")
    differs = told("job-3", BACKSTOP_DATA_DIR=str(foreign))
    assert differs.json == expected
    assert "the read model is of other logs, so whole partitions are read" in differs.err


def test_the_state_as_of_a_time_is_that_of_the_time(history: Recorded) -> None:
    entries = history.backstop("audit", "timeline", "job-5", "-o", "json").json
    began_ms = entries[0]["at_ms"]
    ended = history.backstop("audit", "state", "job-5", "-o", "json").json
    assert ended[0]["status"].startswith("finished: ")
    first = history.records("jobs")
    submitted_ms = next(r.timestamp for r in first if r.key == b"job-5" and b"job_submitted" in r.value)
    begun = history.backstop("audit", "state", "job-5", "--at", str(submitted_ms), "-o", "json").json
    assert [(state["key"], state["status"], state["facts"]) for state in begun] == [("job-5", "submitting", 1)]
    assert history.backstop("audit", "state", "job-5", "--at", str(began_ms - 5_000)).code == 1


def test_a_bundle_refolds_elsewhere_to_the_same_digests(history: Recorded, tmp_path: Path) -> None:
    report = history.backstop("audit", "verify", "-o", "json", "--no-readmodel").json
    live = {f"{p['topic']}:{p['partition']}": p["digest_table"] for p in report["partitions"] if p["facts"]}
    whole, one = tmp_path / "all.bundle", tmp_path / "one.bundle"
    assert history.backstop("audit", "export", "--all", str(whole)).code == 0
    nowhere = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    ran = history.backstop("audit", "import", str(whole), "-o", "json", **nowhere)
    assert ran.code == 0, ran.err
    assert ran.json["digests"] == live
    assert ran.json["records"]["jobs"] == len(history.records("jobs"))

    assert history.backstop("audit", "export", "--job", "job-7", str(one)).code == 0
    ran = history.backstop("audit", "import", str(one), "-o", "json", **nowhere)
    assert (ran.code, ran.json["outputs"]["job_result"]) == (0, 1)
    told = history.backstop("audit", "timeline", "job-7", "--bundle", str(one), "-o", "json", **nowhere)
    assert told.json == history.backstop("audit", "timeline", "job-7", "-o", "json").json
    assert history.backstop("audit", "export", "--all", str(one)).code == 2  # the file exists already


def test_an_audit_leaves_no_trace_on_the_broker(history: Recorded) -> None:
    before = {topic: len(history.records(topic)) for topic in ("jobs", "responses", "results", "dead-letters")}
    assert history.backstop("audit", "verify").code == 0
    assert before == {topic: len(history.records(topic)) for topic in before}


def test_without_a_broker_nothing_was_found_out(history: Recorded) -> None:
    ran = history.backstop("audit", "verify", "--no-readmodel", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert (ran.code, ran.out) == (2, "")
    assert "no Kafka broker answers" in ran.err
    ran = history.backstop("audit", "verify", BACKSTOP_DATABASE_URL="sqlite:////nowhere/readmodel.db")
    assert ran.code == 2
    assert "there is no read model" in ran.err


def test_y_what_retention_has_cut_is_counted_and_the_rest_is_proved(history: Recorded) -> None:
    """Nearly last: the first records of a partition are gone after it."""
    kept = next(r.partition for r in history.records("jobs") if r.key == b"job-2")
    cut = TopicPartition(f"{history.prefix}jobs", (kept + 1) % PARTITIONS)

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=history.bootstrap)
        await admin.start()
        try:
            await admin.delete_records({cut: RecordsToDelete(before_offset=4)})
        finally:
            await admin.close()

    asyncio.run(delete())
    ran = history.backstop("audit", "verify", "-o", "json")
    assert ran.code == 0, ran.out
    report = ran.json
    assert (report["verdict"], report["complete"]) == ("proved", False)
    assert [p["partition"] for p in report["partitions"] if p["begin"] == 4] == [cut.partition]
    assert report["not_covered"]["rows of jobs"] >= 1
    assert history.backstop("audit", "verify", "--complete").code == 1
    assert "proved for what the logs still hold" in history.backstop("audit", "verify").out


def test_z_what_is_planted_is_found(history: Recorded) -> None:
    """The last one: the history is not as it was after it."""
    row = next(r for r in history.records("worker-jobs-changelog") if r.key == b"job-2" and b'"finished"' in r.value)
    planted = row.value.replace(b'"finished_at_ms":1', b'"finished_at_ms":9')
    assert planted != row.value
    history.publish("worker-jobs-changelog", row.key, planted, row.partition)
    ran = history.backstop("audit", "verify", "-o", "json", "--settle", "0.5")
    assert ran.code == 1
    assert ran.json["counts"] == {"table differs": 1}
    (difference,) = ran.json["differences"]
    assert (difference["key"], difference["partition"]) == ("jobs/job-2", row.partition)
    assert difference["fields"][0]["path"] == "state.finished_at_ms"
    assert "DIFFERS: 1 table differs" in history.backstop("audit", "verify", "--settle", "0").out

    history.publish("worker-jobs-changelog", row.key, row.value, row.partition)
    assert history.backstop("audit", "verify").code == 0
    result = next(r for r in history.records("results") if r.key == b"job-2")
    history.publish("results", result.key, result.value, result.partition)
    again = history.backstop("audit", "verify", "-o", "json", "--settle", "0")
    assert (again.code, again.json["counts"]) == (1, {"results duplicate": 1})
