"""The read model made again from the logs, beside the live one, by the product's own command."""

import asyncio
import sys

from tests.torture.rig import Rig

WITHIN_S = 1_200.0


async def rebuild_says(rig: Rig) -> str:
    """Empty where the new one was equal and took the old one's place; else what the command said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "backstop.cli", "readmodel", "rebuild"),
        env=rig.environment("projection"), cwd=rig.plan.code, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(WITHIN_S):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    equal = process.returncode == 0 and b'"verdict": "equal"' in out
    return "" if equal else f"exit {process.returncode}: {out[-400:].decode(errors='replace')}"
