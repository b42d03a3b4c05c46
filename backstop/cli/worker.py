"""`backstop worker`: folds, scheduler, submitter and poller in one process."""

import os

from backstop.cli.unknown_variables import warn_of_unknown
from backstop.runtime.process.garbage import imports_uncollected
from backstop.runtime.read_settings import read
from backstop.runtime.startup import run_until_stopped


def worker() -> None:
    """Run a worker until SIGTERM. Settings come from the environment (`backstop settings`)."""
    with imports_uncollected():
        from streams.app import serve  # noqa: PLC0415 - Faust takes a second to import; only this command pays it
        from streams.settings import StreamSettings  # noqa: PLC0415 - as above

    warn_of_unknown(os.environ)
    settings = read(StreamSettings)
    settings.refuse_to_start()
    run_until_stopped(settings, "worker", serve)
