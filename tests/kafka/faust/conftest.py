from collections.abc import Iterator
from pathlib import Path

import pytest

from backstop.dev.broker import Owned
from tests.kafka.faust.scene import Scene, run


@pytest.fixture
def scene(broker: Owned, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(broker.bootstrap, prefix, tmp_path)
    run(scene.create_topic())
    yield scene
    scene.end()
