"""Topics as files of other people's tools, where a platform team makes the topics. Pure."""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson

from backstop.runtime.errors import ConfigurationError
from backstop.runtime.kafka.topics import WantedTopic

_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9.-]+")


def terraform(topics: Iterable[WantedTopic]) -> str:
    """Resources `kafka_topic` of the provider Mongey/kafka, in Terraform's JSON syntax (`backstop.tf.json`)."""
    named = _named(topics, lambda name: re.sub(r"\W", "_", name))
    resources: dict[str, Any] = {
        resource: {
            "name": topic.name,
            "partitions": topic.partitions,
            "replication_factor": topic.replication_factor,
            "config": dict(sorted(topic.config.items())),
            # Another partition count maps keys to other partitions than the rows of their jobs.
            "lifecycle": {"prevent_destroy": True},
        }
        for resource, topic in named.items()
    }
    return orjson.dumps({"resource": {"kafka_topic": resources}}, option=orjson.OPT_INDENT_2).decode() + "\n"


def strimzi(topics: Iterable[WantedTopic], cluster: str) -> str:
    """Resources `KafkaTopic` of Strimzi, as a stream of YAML documents (JSON is YAML).

    :param cluster: the name of the `Kafka` resource.
    """
    documents = (
        {
            "apiVersion": "kafka.strimzi.io/v1",
            "kind": "KafkaTopic",
            "metadata": {"name": resource, "labels": {"strimzi.io/cluster": cluster}},
            "spec": {
                "topicName": topic.name,
                "partitions": topic.partitions,
                "replicas": topic.replication_factor,
                "config": dict(sorted(topic.config.items())),
            },
        }
        for resource, topic in _named(topics, resource_name).items()
    )
    return "".join(f"---\n{orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()}\n" for document in documents)


def resource_name(topic: str) -> str:
    """A name that Kubernetes takes: lower case letters, digits, `-` and `.`, beginning and ending with a letter or
    digit.
    """
    return _NOT_IN_NAMES.sub("-", topic.lower()).strip("-.")


def _named(topics: Iterable[WantedTopic], name_of: Callable[[str], str]) -> dict[str, WantedTopic]:
    """Topics by the name of their resource.

    :raises ConfigurationError: two topics would have one.
    """
    found: dict[str, WantedTopic] = {}
    for topic in topics:
        other = found.setdefault(name_of(topic.name), topic)
        if other is not topic:
            raise ConfigurationError(
                f"the topics {other.name} and {topic.name} would be one resource, {name_of(topic.name)}: rename a "
                "tenant of BACKSTOP_REQUEST_TENANTS"
            )
    return found
