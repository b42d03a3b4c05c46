"""The wire format: facts, commands, results and dead letters as frozen pydantic models, and the table of topics."""
