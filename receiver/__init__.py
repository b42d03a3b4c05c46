"""HTTP in, facts out: OpenAI's webhooks and the jobs of upstream services.

The receiver sends a 2xx only after the broker has acknowledged the fact.
"""
