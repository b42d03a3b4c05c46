"""The error tree, by who must act.

BackstopError
├── BrokerUnavailableError   passing: the caller retries, or tells its own caller to
├── ConfigurationError       the operator's: the process refuses to start and says what to set
├── BlobMissingError         the job's: its body can't be read; the job fails with that reason, others go on
├── BlobStoreError           passing or the operator's: the blob store can't be used now, and says why; callers try again
└── InvariantError           ours: stop loudly before anything is acknowledged
"""


class BackstopError(Exception):
    """Base of all."""


class BrokerUnavailableError(BackstopError):
    """Kafka did not acknowledge in time."""


class ConfigurationError(BackstopError):
    """A setting, a topic or the machine is not as it must be."""


class BlobMissingError(BackstopError):
    """A body in the blob store is gone, cut, or of another hash."""


class BlobStoreError(BackstopError, OSError):
    """The blob store can't be used now. It says nothing about any blob: what was asked for is tried again, and an operator may have to act."""


class InvariantError(BackstopError):
    """Something that can't be, is."""
