"""Imports structlog without rich, which it would import for tracebacks in colour: 0.2 s of processor time at the start
of each process, and no process of ours prints one. Import it before anything that imports structlog.
"""

import sys

if "structlog" not in sys.modules and "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # Python's way to say that a module can't be imported
    try:
        import structlog  # noqa: F401 - for the effect
    finally:
        del sys.modules["rich"]
