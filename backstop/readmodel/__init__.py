"""The read model: the state of the logs as rows, for people, front ends and the audit. Its own consumer writes it."""
