"""What runs on this machine is asked directly, whatever proxy the environment names for the rest. Children inherit it."""

import os

from cli.system import asked_directly

os.environ |= asked_directly(os.environ)
