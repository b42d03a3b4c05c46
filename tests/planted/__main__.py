"""`python -m tests.planted [NAME ...]`: each bug in turn; exit 1 if one survives."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.planted import CHEAP, LONG
from tests.planted.planting import caught


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these bugs")
    names = parser.parse_args().names
    bugs = [bug for bug in (*CHEAP, *LONG) if not names or bug.name in names]
    survived = 0
    for bug in bugs:
        folder = Path(tempfile.mkdtemp(prefix="backstop-planted-"))
        try:
            by = caught(bug, folder, lambda _kill: None)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        survived += not by
        print(f"{bug.name:36} {bug.layer:44} {'caught: ' + by if by else 'SURVIVED'}", flush=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
