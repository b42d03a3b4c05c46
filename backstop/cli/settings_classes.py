"""The settings classes of all processes, by name: a command that shows no settings imports none of them."""

SETTINGS_CLASSES: tuple[tuple[str, str], ...] = (
    ("backstop.runtime.settings", "RuntimeSettings"),
    ("receiver.settings", "ReceiverSettings"),
    ("streams.settings", "StreamSettings"),
    ("backstop.readmodel.settings", "ProjectionSettings"),
    ("backstop.outgoing.settings", "OutgoingSettings"),
)
"""Where each process declares its settings: module and class."""
