"""The OpenAI-compatible API: `/v1/responses` as the official SDKs call it. Each response is a job of Backstop."""
