"""Outgoing webhooks: turns results into signed requests to tenants' endpoints."""
