"""Asks a database of known vulnerabilities about each locked package of the image: `make scan`.

Exit 0: no vulnerability is known. 1: some are known, and printed. 3: NOT SCANNED, as the database did not answer.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOUND, NOT_SCANNED = 1, 3
WITHIN_S = 600


def main(pip_audit: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        requirements, report = Path(folder) / "runtime.txt", Path(folder) / "report.json"
        locked = subprocess.run(  # noqa: S603 - arguments of our own
            [sys.executable, str(ROOT / "deploy" / "production_requirements.py"), "runtime"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        requirements.write_text(locked)
        try:
            done = subprocess.run(  # noqa: S603 - arguments of our own
                [pip_audit, "--disable-pip", "--require-hashes", "-r", str(requirements),
                 "-f", "json", "-o", str(report), "--progress-spinner", "off"],
                capture_output=True, text=True, check=False, timeout=WITHIN_S,
            )  # fmt: skip
            said = done.stderr
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        return judge(report, said)


def judge(report: Path, said: str) -> int:
    """The exit code for pip-audit's report. A report that is missing, empty or lacks a package is no scan."""
    try:
        packages = json.loads(report.read_text())["dependencies"]
    except (OSError, ValueError, KeyError):
        packages = []
    skipped = [one for one in packages if "skip_reason" in one]
    if not packages or skipped:
        names = ", ".join(one["name"] for one in skipped)
        reason = f"left out: {names}" if skipped else said.strip()[-1500:]
        print(
            f"NOT SCANNED: the database of vulnerabilities did not answer for all packages.\n{reason}", file=sys.stderr
        )
        return NOT_SCANNED
    known = [(one["name"], one["version"], flaw) for one in packages for flaw in one["vulns"]]
    for name, version, flaw in known:
        fixed = ", ".join(flaw["fix_versions"]) or "none yet"
        print(f"{name} {version}: {flaw['id']}; fixed in: {fixed}")
    print(f"{len(packages)} packages asked about, {len(known)} known vulnerabilities", file=sys.stderr)
    return FOUND if known else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
