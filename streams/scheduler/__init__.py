"""Time as facts: an index of due times, and the service that writes timers into the logs."""
