"""Three nodes of Kafka on this machine's JVM, broker and controller in one, to be killed one by one.

As in production: three replicas of what Kafka itself keeps, two of which must have a record before it is acknowledged.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import CommitFailedError

from backstop.dev.broker import Broker, LocalKafka
from backstop.dev.broker.jvm import NodeOptions, draw_cluster_id
from backstop.dev.broker.node import HOST, draw_ports

NODE_IDS = (1, 2, 3)
REPLICATED: Mapping[str, str] = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    # A killed node is detected after two seconds (see `node.DEVELOPMENT`); the next leader is elected as fast.
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.fetch.timeout.ms": "1000",
    "controller.quorum.election.backoff.max.ms": "500",
    "replica.lag.time.max.ms": "3000",
    "replica.fetch.wait.max.ms": "100",
}

# They live for seconds, on two cores with all of ours: without the second compiler a node is back in half the time (7 s
# for 13 s).
JAVA_OPTIONS = ("-Xmx256m", "-XX:TieredStopAtLevel=1")


@dataclass(frozen=True, slots=True)
class PartitionState:
    """Node ids; `leader` is -1 where there is none."""

    leader: int
    replicas: frozenset[int]
    in_sync: frozenset[int]


class Cluster:
    """`nodes` by node id. Blocking calls, as `Broker`'s."""

    def __init__(self, kafka: LocalKafka, folder: Path) -> None:
        ports = {node_id: draw_ports() for node_id in NODE_IDS}
        voters = ",".join(f"{node_id}@{HOST}:{of.controller}" for node_id, of in ports.items())
        cluster_id = draw_cluster_id()
        self.bootstrap = ",".join(f"{HOST}:{of.client}" for of in ports.values())
        self.nodes = {
            node_id: Broker(
                kafka,
                folder / f"node-{node_id}",
                ports=of,
                options=NodeOptions(
                    cluster_id=cluster_id,
                    java_options=JAVA_OPTIONS,
                    overrides={**REPLICATED, "node.id": str(node_id), "controller.quorum.voters": voters},
                ),
            )
            for node_id, of in ports.items()
        }

    def start(self, *node_ids: int) -> Self:
        """Start these nodes, or all that are down. At once: one alone has no quorum, and would wait for the others."""
        wanted = node_ids or tuple(node_id for node_id, node in self.nodes.items() if not node.running)
        if not wanted:
            return self
        with ThreadPoolExecutor(len(wanted)) as pool:
            for _ in pool.map(lambda node_id: self.nodes[node_id].start(), wanted):
                pass
        return self

    def kill(self, *node_ids: int) -> None:
        for node_id in node_ids:
            self.nodes[node_id].kill()

    def stop(self) -> None:
        """End all, at once and without ceremony: what they hold is not kept."""
        self.kill(*NODE_IDS)
        for node in self.nodes.values():
            node.stop()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_error: object) -> None:
        self.stop()

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    async def describe(self, prefix: str) -> dict[tuple[str, int], PartitionState]:
        """The partitions of all topics under the prefix, as a node that answers knows them."""
        async with self._admin() as admin:
            topics = [topic for topic in await admin.describe_topics() if topic["topic"].startswith(prefix)]
        return {
            (topic["topic"], state["partition"]): PartitionState(
                state["leader"], frozenset(state["replicas"]), frozenset(state["isr"])
            )
            for topic in topics
            for state in topic["partitions"]
        }

    async def all_in_sync(self, prefix: str) -> bool:
        """Whether every replica under the prefix has what its leader has."""
        return all(state.in_sync == state.replicas for state in (await self.describe(prefix)).values())

    async def create(self, topic: str, replicas: Sequence[int], config: Mapping[str, str]) -> None:
        """A topic of one partition, on these nodes; the first leads."""
        async with self._admin() as admin:
            made = NewTopic(topic, -1, -1, replica_assignments={0: list(replicas)}, topic_configs=dict(config))
            answer = await admin.create_topics([made])
        assert [code for _, code, *_ in answer.topic_errors] == [0], answer

    async def delete(self, topic: str) -> None:
        async with self._admin() as admin:
            await admin.delete_topics([topic])

    async def rewind(self, group: str, topic: str) -> bool:
        """Commit the beginning of partition 0, as `kafka-consumer-groups --reset-offsets` does; False while the group
        has members.
        """
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, group_id=group, enable_auto_commit=False)
        await consumer.start()
        try:
            tp = TopicPartition(topic, 0)
            consumer.assign([tp])
            await consumer.commit({tp: 0})
        except CommitFailedError:
            return False
        finally:
            await consumer.stop()
        return True
