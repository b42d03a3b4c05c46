"""The error tree, by the party that must act.

BackstopError
├── BrokerUnavailableError   passing: the caller retries, or tells its own caller to
├── ConfigurationError       the operator's: the process does not start, and says what to set
├── BlobMissingError         the job's: its body can't be read; the job fails with that reason, other jobs go on
├── BlobStoreError           passing or the operator's: the blob store can't be used now; callers try again
├── BrokerError              the developer's: no broker can be started here (`backstop.dev.broker.errors`)
└── InvariantError           a bug of Backstop: stop before anything is acknowledged
"""


class BackstopError(Exception):
    """Base of all."""


class BrokerUnavailableError(BackstopError):
    """Kafka did not acknowledge in time."""


class ConfigurationError(BackstopError):
    """A setting, a topic or the machine is not as it must be."""


class BlobMissingError(BackstopError):
    """A body in the blob store is gone, truncated, or of another hash."""


class BlobStoreError(BackstopError, OSError):
    """The blob store can't be used now. It tells nothing about a
    blob: callers try again, and an operator may have to act.
    """


class InvariantError(BackstopError):
    """An internal invariant is broken; stop before acknowledging."""
