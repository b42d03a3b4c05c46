<<<<<<< HEAD
"""Where each process declares its settings."""
=======
"""The settings classes of all processes, by name: a command that shows no settings imports none of them."""
>>>>>>> w-house

SETTINGS_CLASSES: tuple[tuple[str, str], ...] = (
    ("backstop.runtime.settings", "RuntimeSettings"),
    ("receiver.settings", "ReceiverSettings"),
    ("streams.settings", "StreamSettings"),
    ("backstop.readmodel.settings", "ProjectionSettings"),
    ("backstop.outgoing.settings", "OutgoingSettings"),
)
<<<<<<< HEAD
"""Module and name of each class. A command imports a module only where it needs the settings themselves."""
=======
"""Where each process declares its settings: module and class."""
>>>>>>> w-house
