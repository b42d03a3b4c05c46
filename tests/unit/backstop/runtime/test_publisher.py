"""Where a record goes: to the partition that Kafka's default partitioner names."""

from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given, settings
from hypothesis import strategies as st

from backstop.runtime.kafka.publisher import partition_of

PARTITIONS = st.lists(st.integers(0, 1_000), min_size=1, max_size=64, unique=True).map(sorted)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.binary(max_size=100), PARTITIONS)
def test_a_key_has_the_partition_of_the_default_partitioner(key: bytes, partitions: list[int]) -> None:
    wanted = DefaultPartitioner()(key, partitions, partitions)
    assert [partition_of(key, partitions, partitions) for _ in range(2)] == [wanted, wanted]


def test_a_record_without_a_key_goes_to_an_available_partition() -> None:
    assert {partition_of(None, [0, 1, 2], [1, 2]) for _ in range(100)} <= {1, 2}
