"""A Produce request with bytes of one's own: what no client library would write, as a stranger may."""

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest

ACKS_ALL, TIMEOUT_MS = -1, 10_000


async def produce_raw(bootstrap: str, topic: str, partition: int, batch: bytes) -> int | str:
    """The offset of the batch; or the name of the broker's error."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        client.add_topic(topic)
        await client.force_metadata_update()
        node = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        assert node is not None
        assert await client.ready(node)
        request = ProduceRequest(None, ACKS_ALL, TIMEOUT_MS, [(topic, [(partition, batch)])])
        answer = await client.send(node, request)
    finally:
        await client.close()
    ((_, ((_, code, offset, *_),)),) = [(name, tuple(parts)) for name, parts in answer.topics]
    return int(offset) if code == 0 else str(for_code(code).__name__)
