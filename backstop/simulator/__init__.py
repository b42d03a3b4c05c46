"""A stand-in for OpenAI: the wire format of its background responses and webhooks, faults on demand, true ledgers.

It imports nothing of Backstop's. A witness that shares code with the accused proves nothing.
"""
