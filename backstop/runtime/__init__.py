"""The base of every process: clock, settings, Kafka producers and topics, blobs, metrics, logs, failpoints."""
