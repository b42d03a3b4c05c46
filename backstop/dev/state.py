"""`dev.json`: the addresses of a running `backstop dev`, for the other commands.

The file is a hint: it is valid only while the process that wrote it lives.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from backstop.runtime.errors import ConfigurationError

STATE_VARIABLE = "BACKSTOP_STATE_DIR"
STATE_FOLDER = ".backstop"
STATE_FILE = "dev.json"


@dataclass(frozen=True, slots=True)
class DevState:
    """`url` is the API's address. `simulator_url` is None where the real OpenAI is used."""

    pid: int
    url: str
    bootstrap: str
    topic_prefix: str
    partitions: int
    simulator_url: str | None
    logs: str
    started_at: str


def state_folder(folder: Path | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """The given folder, else BACKSTOP_STATE_DIR, else `.backstop` in the current directory."""
    return (folder or Path(environment.get(STATE_VARIABLE) or STATE_FOLDER)).expanduser().resolve()


def write_state(folder: Path, state: DevState) -> None:
    part = folder / f"{STATE_FILE}.part"
    part.write_text(json.dumps(asdict(state), indent=2) + "\n")
    part.replace(folder / STATE_FILE)


def forget_state(folder: Path) -> None:
    (folder / STATE_FILE).unlink(missing_ok=True)


def read_state(folder: Path) -> DevState | None:
    """The state of the running `backstop dev`, else None. The lock decides: the system releases it at its holder's
    death.
    """
    try:
        state = DevState(**json.loads((folder / STATE_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return state if _is_held(folder) else None


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Lock the folder for one `backstop dev` at a time.

    :raises ConfigurationError: another `backstop dev` runs on the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "dev.lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"`backstop dev` already runs on {folder}: see {folder / STATE_FILE}, or give another --state-dir"
            ) from None
        forget_state(folder)  # left by a killed process; with the lock held here, it would look valid
        yield


def _is_held(folder: Path) -> bool:
    with suppress(OSError), (folder / "dev.lock").open("r") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
