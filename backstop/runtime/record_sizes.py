"""Size limits of a record, on the wire and unpacked."""

RECORD_BYTES_MAX = 1_500_000
"""Above the largest request plus its envelope; topics are created with `max.message.bytes` to match."""

TOPIC_BYTES_MAX = RECORD_BYTES_MAX + 65_536
"""`max.message.bytes`: the largest record plus a batch's overhead. A broker refuses a batch that is larger *packed*."""

UNPACKED_PER_PACKED_MAX = 16
"""Batches of JSON pack 5 to 12 to 1 with zstd; hostile ones 100 (snappy: 20) to 30,000 to 1."""

UNPACKED_BYTES_MAX = UNPACKED_PER_PACKED_MAX * TOPIC_BYTES_MAX
"""The default limit on an unpacked batch: 25 MB."""
