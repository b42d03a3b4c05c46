"""What an idle system takes: `python -m bench --only idle`.

The whole system as `backstop dev` starts it, after `SETTLE_S`, without a single job. Processor time is that of
`/proc/PID/stat`, children included.
"""

import asyncio
import time
from typing import Any

from bench.processes import cpu_s
from bench.system import OURS, our_pids, system_of

SETTLE_S, MEASURED_S = 20.0, 60.0


async def idle(seconds: float = MEASURED_S) -> dict[str, Any]:
    """Percent of a core by process, and their sum but for the broker."""
    async with system_of({"models": {"*": {}}}, {}, 1) as system:
        await asyncio.sleep(SETTLE_S)
        pids = our_pids(system)
        if system.broker_pid is not None:
            pids["broker"] = system.broker_pid
        before, began_s = {name: cpu_s([pid]) for name, pid in pids.items()}, time.monotonic()
        await asyncio.sleep(seconds)
        took_s = time.monotonic() - began_s
        used = {name: round(100 * (cpu_s([pid]) - before[name]) / took_s, 2) for name, pid in pids.items()}
        return {"percent": used, "python_percent": round(sum(used[name] for name in OURS), 2)}
