"""An intake over a log in memory."""

from pathlib import Path

from backstop.runtime.blobs import FolderBlobs
from streams.agents.agents import Intake
from streams.submission import SubmissionPolicy
from tests.support.builders import T0
from tests.support.memory_publisher import MemoryPublisher


def intake_of(publisher: MemoryPublisher, folder: Path) -> Intake:
    return Intake(
        publisher=publisher,
        blobs=FolderBlobs(folder),
        policy=SubmissionPolicy(),
        inline_bytes_max=65_536,
        now_ms=lambda: T0,
    )
