"""Where each process declares its settings."""

SETTINGS_CLASSES: tuple[tuple[str, str], ...] = (
    ("backstop.runtime.settings", "RuntimeSettings"),
    ("receiver.settings", "ReceiverSettings"),
    ("streams.settings", "StreamSettings"),
    ("backstop.readmodel.settings", "ProjectionSettings"),
    ("backstop.outgoing.settings", "OutgoingSettings"),
)
"""Module and name of each class. A command imports a module only where it needs the settings themselves."""
