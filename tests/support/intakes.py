"""An intake over a log in memory."""

from pathlib import Path

from backstop.runtime.blobs import Bodies, FolderBlobs
from streams.agents.agents import Intake
from streams.submission import SubmissionPolicy
from tests.support.builders import T0
from tests.support.memory_publisher import MemoryPublisher


def intake_of(publisher: MemoryPublisher, folder: Path) -> Intake:
    return Intake(
        publisher=publisher,
        bodies=Bodies(FolderBlobs(folder), 65_536),
        policy=SubmissionPolicy(),
        now_ms=lambda: T0,
    )
