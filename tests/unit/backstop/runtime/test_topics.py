"""What counts as a difference between the topics wanted and the topics found, and which of them stop a process."""

from dataclasses import replace
from typing import Any

import pytest

from backstop.runtime.errors import ConfigurationError
from backstop.runtime.kafka.topics import FoundTopic, TopicDifference, compare, wanted_topics
from backstop.runtime.record_sizes import TOPIC_BYTES_MAX
from backstop.runtime.settings import RuntimeSettings
from schemas.topics import CHANGELOGS, TOPICS

SETTINGS = RuntimeSettings(topic_prefix="t.", partitions=4)
WANTED = wanted_topics(SETTINGS)
AS_WANTED = {
    topic.name: FoundTopic(topic.name, topic.partitions, topic.replication_factor, topic.config) for topic in WANTED
}


def found_with(name: str, **changes: Any) -> tuple[TopicDifference, ...]:
    return compare(WANTED, {**AS_WANTED, name: replace(AS_WANTED[name], **changes)})


def config_with(name: str, setting: str, value: str) -> tuple[TopicDifference, ...]:
    return found_with(name, config={**AS_WANTED[name].config, setting: value})


def test_every_topic_of_the_table_is_wanted_under_its_prefix() -> None:
    assert [topic.name for topic in WANTED] == [f"t.{topic.name}" for topic in (*TOPICS, *CHANGELOGS)]


def test_topics_as_wanted_have_no_difference() -> None:
    assert compare(WANTED, AS_WANTED) == ()


def test_a_missing_topic_is_fatal_and_says_what_to_run() -> None:
    without = {name: topic for name, topic in AS_WANTED.items() if name != "t.jobs"}
    (difference,) = compare(WANTED, without)
    assert (difference.topic, difference.aspect, difference.fatal) == ("t.jobs", "missing", True)
    assert "backstop topics create" in str(difference)


def test_another_partition_count_of_a_log_is_fatal_and_names_both_counts() -> None:
    (difference,) = found_with("t.jobs", partitions=6)
    assert (difference.found, difference.wanted, difference.fatal) == ("6", "4", True)
    assert "BACKSTOP_PARTITIONS=6" in str(difference)


def test_another_partition_count_of_requests_is_only_told() -> None:
    (difference,) = found_with("t.requests", partitions=12)
    assert not difference.fatal


def test_fewer_replicas_are_told_and_more_are_fine() -> None:
    settings = RuntimeSettings(topic_prefix="t.", partitions=4, replication_factor=2)
    fewer = compare(wanted_topics(settings), AS_WANTED)
    assert {difference.aspect for difference in fewer} == {"replication_factor"}
    assert found_with("t.jobs", replication_factor=3) == ()


def test_a_compacted_log_is_fatal_because_facts_would_vanish() -> None:
    (difference,) = config_with("t.jobs", "cleanup.policy", "compact")
    assert difference.fatal


def test_the_order_of_cleanup_policies_does_not_matter() -> None:
    assert config_with("t.results", "cleanup.policy", "delete, compact") == ()


def test_another_retention_is_told_and_endless_retention_is_fine() -> None:
    (difference,) = config_with("t.jobs", "retention.ms", "1000")
    assert not difference.fatal
    assert config_with("t.jobs", "retention.ms", "-1") == ()


def test_a_smaller_record_limit_is_fatal_and_a_larger_one_is_fine() -> None:
    (difference,) = config_with("t.jobs", "max.message.bytes", str(TOPIC_BYTES_MAX - 1))
    assert difference.fatal
    assert config_with("t.jobs", "max.message.bytes", str(TOPIC_BYTES_MAX + 1)) == ()


def test_more_in_sync_replicas_than_replicas_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="BACKSTOP_MIN_INSYNC_REPLICAS=2"):
        wanted_topics(RuntimeSettings(min_insync_replicas=2))
