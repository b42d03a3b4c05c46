"""Policies: functions from a question to a decision. Pure."""
