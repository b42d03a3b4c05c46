"""Partial output, live: what the topic `partials` tells of responses that still run, for whoever listens. It decides nothing."""
