"""HTTP in, facts out: OpenAI's webhooks, and the jobs of upstream services. A 2xx is never sent before the log has it."""
