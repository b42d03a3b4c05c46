"""Runs the Temporal activity of `examples/` twice, as Temporal does after a timeout: `FOLDER WORKFLOW_ID TEXT`."""

import asyncio
import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

from temporalio.testing import ActivityEnvironment

file = Path(sys.argv[1]) / "temporal_activity.py"
spec = importlib.util.spec_from_file_location("temporal_activity", file)
assert spec is not None
assert spec.loader is not None
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)


async def main() -> None:
    beats: list[object] = []
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, workflow_id=sys.argv[2])
    environment.on_heartbeat = lambda *told: beats.append(told)
    texts = [await environment.run(example.ask_openai, sys.argv[3]) for _ in range(2)]
    sys.stdout.write(json.dumps({"texts": texts, "beats": len(beats)}))


asyncio.run(main())
