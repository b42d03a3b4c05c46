"""The limit of open files is raised as far as it may be, and never lowered."""

import subprocess
import sys

SCRIPT = """
import resource
from backstop.runtime.process.descriptors import allow_files
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
print(allow_files(50), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
print(allow_files(150), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
print(allow_files(1000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_the_soft_limit_rises_to_the_hard_one_at_most() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["50", "100", "150", "150", "200", "200"]


def test_the_probe_complains_while_few_or_no_files_are_left() -> None:
    script = """
import os, resource
from backstop.runtime.process.descriptors import files_probe
probe = files_probe()
open_now = len(os.listdir("/dev/fd")) - 1
for left in (100, 16, 15, 0):
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + left, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    print(probe())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    good, enough, few, none = done.stdout.splitlines()
    assert (good, enough) == ("None", "None")
    assert few.startswith("15 more files can be opened")
    assert none == "no file can be opened: Too many open files"
