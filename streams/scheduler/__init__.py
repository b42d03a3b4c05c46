"""Time as events: an index of what is due, and the service that writes it into the logs."""
