"""What is on the wire: facts, commands, results and dead letters as frozen pydantic models, and the one table of topics."""
