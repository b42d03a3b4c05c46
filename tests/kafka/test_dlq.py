"""Dead letters on a real broker, by the command: a plan, a decision as a record, and the record back on its topic."""

import asyncio
import json
from pathlib import Path

import pytest

from backstop.dev.broker import Owned
from backstop.runtime.kafka.dead_letters import dead_letter
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.records import Record
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import PoisonError, encode
from schemas.dead_letters import DeadLetter, DeadReason
from tests.kafka.recorded import Recorded
from tests.support import builders as b

PARTITIONS = 2


class Queue(Recorded):
    """A prefix with its topics, and records set aside."""

    def set_aside(
        self, value: bytes, key: bytes, topic: str = "requests", reason: DeadReason = "not_json"
    ) -> DeadLetter:
        self.publish(topic, key, value)
        (found,) = [record for record in self.records(topic) if record.key == key]
        raw = Record(
            found.topic, found.partition, found.offset, found.timestamp, key, value, (("traceparent", b"00-1"),)
        )
        letter = dead_letter(raw, PoisonError(reason, "why"), "intake", found.timestamp)
        self.publish("dead-letters", letter.key.encode(), encode(letter))
        return letter

    def open_ids(self, *options: str) -> list[str]:
        ran = self.backstop("dlq", "list", "-o", "json", *options)
        assert ran.code == 0, ran.err
        return [row["id"] for row in ran.json]


@pytest.fixture
def queue(broker: Owned, prefix: str, tmp_path: Path) -> Queue:
    settings = RuntimeSettings(kafka_bootstrap_servers=broker.bootstrap, topic_prefix=prefix, partitions=PARTITIONS)
    asyncio.run(create_topics(settings))
    queue = Queue(broker.bootstrap, prefix, tmp_path)
    queue.environment = {
        "PATH": "/usr/bin:/bin",
        "USER": "ann",
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
        "BACKSTOP_TOPIC_PREFIX": prefix,
        "BACKSTOP_STATE_DIR": str(tmp_path / "state"),
    }
    return queue


def test_dead_letters_are_listed_filtered_and_shown_with_their_record(queue: Queue) -> None:
    one = queue.set_aside(b"no json", b"k1")
    two = queue.set_aside(b'{"v":9}', b"k2", topic="jobs", reason="unknown_version")
    queue.publish("dead-letters", None, b'{"foreign":true}')
    assert queue.open_ids() == [one.id, two.id]
    assert queue.open_ids("--topic", "jobs") == [two.id]
    assert queue.open_ids("--reason", "not_json") == [one.id]
    assert queue.open_ids("--since", "1h") == [one.id, two.id]
    assert queue.open_ids("--since", "2100-01-01") == []
    spoken = queue.backstop("dlq", "list")
    assert [line.split()[0] for line in spoken.out.splitlines()] == [
        "ID", *(letter.id.removeprefix(queue.prefix) for letter in (one, two))
    ]  # fmt: skip
    assert "1 records of" in spoken.err

    shown = queue.backstop("dlq", "show", two.id.removeprefix(queue.prefix)).json
    assert shown["origin"] == {**two.origin.model_dump(), "topic": f"{queue.prefix}jobs"} if two.origin else None
    assert shown["record"] == {
        "key": "k2", "headers": {"traceparent": "00-1"}, "value": {"v": 9}, "size_bytes": 7, "truncated": False
    }  # fmt: skip
    assert shown["reads_now"].startswith("no: unknown_version")
    assert queue.backstop("dlq", "show", "nothing").code == 1


def test_a_retry_shows_its_plan_and_with_execute_puts_the_record_back_as_it_was(queue: Queue) -> None:
    value = encode(b.submitted())
    letter = queue.set_aside(value, b.JOB.encode(), topic="jobs", reason="unknown_type")
    queue.set_aside(b"no json", b"other")
    before = len(queue.records("jobs"))

    plan = queue.backstop("dlq", "retry", letter.id, "-o", "json")
    assert plan.json == {
        "would": "retry", "count": 1, "by_topic": {f"{queue.prefix}jobs": 1},
        "sample": [{"id": letter.id, "reason": "unknown_type", "reads_now": "yes"}], "executed": False,
    }  # fmt: skip
    assert "add --execute" in queue.backstop("dlq", "retry", letter.id).err
    assert (len(queue.records("jobs")), len(queue.open_ids())) == (before, 2)

    done = queue.backstop("dlq", "retry", "--reason", "unknown_type", "--execute", "--why", "new release", "-o", "json")
    assert (done.code, done.json["executed"], done.json["count"]) == (0, True, 1)
    first, again = [record for record in queue.records("jobs") if record.key == b.JOB.encode()]
    assert (again.value, again.partition) == (value, first.partition)
    assert again.headers == (("traceparent", b"00-1"), ("backstop_retry_of", letter.id.encode()))
    assert len(queue.open_ids()) == 1
    assert len(queue.open_ids("--all")) == 2
    (decision,) = queue.backstop("dlq", "show", letter.id).json["decisions"]
    assert (decision["resolution"], decision["by"], decision["why"]) == ("retried", "ann", "new release")

    refused = queue.backstop("dlq", "retry", letter.id, "--execute")
    assert (refused.code, "was retried by ann" in refused.err) == (1, True)
    assert queue.backstop("dlq", "retry", letter.id, "--again", "--execute").code == 0
    assert len(queue.records("jobs")) == before + 2


def test_a_dropped_dead_letter_is_hidden_and_the_decision_is_kept(queue: Queue) -> None:
    letter = queue.set_aside(b"no json", b"k1")
    assert queue.backstop("dlq", "drop", letter.id).out.startswith("1 to be dropped (not_json 1)")
    assert queue.open_ids() == [letter.id]
    refused = queue.backstop("dlq", "drop", letter.id, "--execute")
    assert (refused.code, "--why" in refused.err) == (2, True)
    assert queue.open_ids() == [letter.id]
    assert queue.backstop("dlq", "drop", letter.id, "--execute", "--why", "test data", "--by", "bob").code == 0
    assert queue.open_ids() == []
    shown = queue.backstop("dlq", "show", letter.id).json
    assert (shown["status"], shown["decisions"][0]["by"], shown["decisions"][0]["why"]) == (
        "dropped",
        "bob",
        "test data",
    )
    keys = [
        (record.partition, record.key, json.loads(record.value)["type"]) for record in queue.records("dead-letters")
    ]
    assert keys[0][:2] == keys[1][:2]
    assert [kind for _, _, kind in keys] == ["dead_letter", "dead_letter_resolved"]


def test_nothing_is_chosen_by_leaving_everything_out(queue: Queue) -> None:
    queue.set_aside(b"no json", b"k1")
    for command in ("retry", "drop"):
        for arguments in ((), ("some-id", "--reason", "not_json"), ("--reason", "no_such"), ("--topic", "no_such")):
            ran = queue.backstop("dlq", command, *arguments, "--execute", "--why", "x")
            assert (ran.code, ran.out) == (2, ""), (command, arguments)
    assert len(queue.open_ids()) == 1
