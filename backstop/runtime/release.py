"""The release of this installation."""

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "backstop-jobs"


def release() -> str:
    """The installed version; `0` in a source tree that is not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0"
