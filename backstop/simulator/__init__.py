"""A simulator of OpenAI: the wire format of background responses and webhooks, faults on demand, and ledgers.

It imports nothing of Backstop: a witness that shares code with the system under test would share its bugs.
"""
