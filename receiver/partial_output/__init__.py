"""Live partial output: streams the topic `partials`, events of running responses, to clients. No job depends on it."""
