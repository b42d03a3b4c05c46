"""What every process stands on: clock, settings, Kafka producers and topics, blobs, metrics, logs, failpoints."""
