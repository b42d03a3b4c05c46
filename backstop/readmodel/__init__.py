"""The read model: what the logs amount to, in a database, for people, front ends and the audit. Written by its own consumer."""
