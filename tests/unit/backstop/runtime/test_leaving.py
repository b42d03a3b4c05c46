import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading
from backstop.runtime.process.leaving import left_at_once

class Last:
    def __del__(self, write=sys.stdout.write, flush=sys.stdout.flush):
        write("torn down,")
        flush()

last = Last()

def run():
    {imports}
    atexit.register(lambda: print("registered", end=","))
    threading.Timer(0.05, lambda: print("thread", end=",")).start()
    print("done", end=",")
    {end}

with left_at_once():
    run()
"""


def ended(imports: str, end: str) -> tuple[int, str]:
    program = PROGRAM.format(imports=imports, end=end)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize(("end", "code"), [("pass", 0), ("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit(False)", 0)])
def test_with_obstore_all_ends_but_the_interpreter_is_not_torn_down(end: str, code: int) -> None:
    assert ended("import obstore", end) == (code, "done,thread,registered,")


def test_without_obstore_the_end_is_pythons() -> None:
    assert ended("pass", "sys.exit(3)") == (3, "done,thread,registered,torn down,")


@pytest.mark.parametrize("end", ["1 / 0", "sys.exit('a sentence')"])
def test_an_end_that_python_explains_is_pythons(end: str) -> None:
    assert ended("import obstore", end) == (1, "done,thread,registered,torn down,")


@pytest.mark.parametrize("end", ["sys.stdout.close()", "sys.stdout = None"])
def test_without_an_output_the_end_is_pythons(end: str) -> None:
    assert ended("import obstore", end)[0] == 0
