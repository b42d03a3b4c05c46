"""Outgoing webhooks: results in, signed requests to the endpoints of tenants out."""
