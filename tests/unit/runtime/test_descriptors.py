"""The limit of open files is raised as far as it may be, and never lowered."""

import subprocess
import sys

SCRIPT = """
import resource
from runtime.descriptors import allow_files
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
print(allow_files(50), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
print(allow_files(150), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
print(allow_files(1000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_the_soft_limit_rises_to_the_hard_one_at_most() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["50", "100", "150", "150", "200", "200"]
