"""The OpenAI-compatible door: `/v1/responses` as the official SDKs call it, kept as jobs of Backstop."""
