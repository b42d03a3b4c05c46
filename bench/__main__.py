"""One door to all measurements of Backstop alone: runs scenes, judges their medians, renders the page.

    make bench [BENCH="--only burst,idle --repeats 3"]
    python -m bench --from .backstop/bench/RUN.jsonl      # judges and renders a run again

Each scene runs in a process of its own, on a broker of its own. Every figure of every repeat is a line of JSON in
`.backstop/bench/`. With `--page` the table goes between the markers of that page, and the plots beside it. Exit 1: a
goal was missed, each of which is named. Run it on an idle machine: other load changes latencies most, processor time
least.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.judging import flat, judged
from bench.report import growth_svg, put, table

ROOT = Path(__file__).parents[1]
RUN_WITHIN_S = 1_200


def measured(name: str) -> Mapping[str, Any]:
    """The figures of one repeat.

    :raises subprocess.CalledProcessError: the scene failed; what it said is on stderr.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--scene", name],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=RUN_WITHIN_S, check=True,
    )  # fmt: skip
    figures: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def collected(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        for name, value in flat(line["figures"]):
            found[f"{line['scene']}.{name}"].append(value)
    return found


def machine(lines: Sequence[Mapping[str, Any]]) -> str:
    loads = [float(line["load"]) for line in lines]
    repeats = max(sum(other["scene"] == line["scene"] for other in lines) for line in lines)
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), CPython {platform.python_version()}, up to {repeats} repeats; "
        f"load average before the scenes: {min(loads):g} to {max(loads):g}."
    )


def curves(values: Mapping[str, Sequence[float]], sizes: Sequence[int]) -> dict[str, list[tuple[float, float]]]:
    """What grows with the number of open jobs."""
    figures = {"bytes a job": "bytes_a_job", "µs an event": "event_us", "s to start": "start_s"}
    return {
        name: points
        for name, figure in figures.items()
        if (points := [(float(n), values[at][0]) for n in sizes if (at := f"open_{n}.{figure}") in values])
    }


def main() -> int:
    from bench.scenes import GOALS, OPEN_JOBS, SCENES, UNMEASURED, run  # noqa: PLC0415 - `--help` needs no broker

    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(SCENES), help="scenes, with commas between them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--page", type=Path, help="the page with the markers")
    parser.add_argument("--from", dest="earlier", type=Path, help="figures of an earlier run: nothing is measured")
    parser.add_argument("--scene", choices=SCENES, help="run this scene once and print its figures")
    given = parser.parse_args()
    if given.scene:
        print(json.dumps(run(given.scene)))
        return 0
    if given.earlier:
        lines = [json.loads(line) for line in given.earlier.read_text().splitlines()]
    else:
        names = given.only.split(",")
        if unknown := set(names) - SCENES.keys():
            parser.error(f"no scenes: {', '.join(sorted(unknown))}; there are {', '.join(SCENES)}")
        lines = _run(names, given.repeats)
    values = collected(lines)
    rows = judged(values, GOALS)
    failed = sorted({f"scene `{line['scene']}`, which failed" for line in lines if line.get("failed")})
    text = table(rows, machine(lines), [*failed, *UNMEASURED])
    print(text)
    if given.page:
        given.page.write_text(put(given.page.read_text(), text))
        if found := curves(values, OPEN_JOBS):
            svg = growth_svg(found, "open jobs on one worker", "bytes a job, µs an event, s to start")
            given.page.with_name("growth.svg").write_text(svg)
    return 1 if failed or any(row.short for row in rows) else 0


def _run(names: Sequence[str], repeats: int) -> list[dict[str, Any]]:
    """Scenes take turns within a repeat, so that the machine's load affects all."""
    from bench.scenes import SCENES  # noqa: PLC0415 - as in `main`

    folder = ROOT / ".backstop/bench"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    about_s = sum(SCENES[name].takes_s * (1 if SCENES[name].curve else repeats) for name in names)
    print(f"about {about_s / 60:.0f} minutes; figures go to {kept.relative_to(ROOT)}", file=sys.stderr, flush=True)
    lines: list[dict[str, Any]] = []
    for repeat in range(repeats):
        for name in names:
            if repeat and SCENES[name].curve:
                continue
            load, began_s = round(os.getloadavg()[0], 2), time.monotonic()
            try:
                figures, failed = measured(name), None
            except (subprocess.SubprocessError, ValueError) as error:  # The other scenes are measured nevertheless.
                figures, failed = {}, repr(error)
            took_s = round(time.monotonic() - began_s, 1)
            line = {
                "scene": name,
                "repeat": repeat,
                "load": load,
                "took_s": took_s,
                "failed": failed,
                "figures": figures,
            }
            lines.append(line)
            with kept.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), file=sys.stderr, flush=True)
    return lines


if __name__ == "__main__":
    sys.exit(main())
