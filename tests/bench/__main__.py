"""`python -m tests.bench [PIECE …]`, as `diet`: one Markdown table, and build/bench.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from dataclasses import asdict

from tests.bench.contenders import CONTENDERS
from tests.bench.pieces import PIECES
from tests.bench.plan import Plan, Row

RESULT_PATH = os.path.join("build", "bench.json")
BUSY_LOAD = 0.5


def _table(rows: list[Row]) -> str:
    lines = ["| what | figures |", "|---|---|"]
    for row in rows:
        figures = [f"{name} **{value:,.{_digits(value)}f}**" for name, value in row.figures.items()]
        lines.append(f"| {row.what} | {' · '.join(figures + row.notes)} |")
    return "\n".join(lines)


def _digits(value: float) -> int:
    return 0 if value == int(value) or abs(value) >= 100 else 1 if abs(value) >= 10 else 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"of {', '.join(PIECES)}; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, comma-separated")
    parser.add_argument("--share", type=float, default=1.0, help="of the files, for a quick look")
    parser.add_argument("--idle-s", type=float, default=60.0)
    options = parser.parse_args()
    unknown = [name for name in options.pieces if name not in PIECES]
    contenders = tuple(options.only.split(","))
    if unknown or not set(contenders) <= set(CONTENDERS):
        parser.error(f"pieces are {', '.join(PIECES)}; contenders are {', '.join(CONTENDERS)}")
    plan = Plan(options.rounds, contenders, options.share, options.idle_s)
    # So that whoever ends the measuring also ends the stores and agents that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows: list[Row] = []
    failed = False
    load = os.getloadavg()[0]
    if load > BUSY_LOAD:
        print(f"this machine is busy (load {load:.1f}): the figures will say as much about that", file=sys.stderr)
    for name in options.pieces or PIECES:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            for row in PIECES[name](plan):
                print(f"  {row.what}: {row.figures}", file=sys.stderr, flush=True)
                rows.append(row)
        except Exception as error:  # the other pieces still have something to say
            print(f"{name} failed: {error}", file=sys.stderr, flush=True)
            failed = True
    print(_table(rows))
    print(f"\nLoad of the machine before: {load:.1f}; {os.cpu_count()} CPUs.")
    os.makedirs(os.path.dirname(RESULT_PATH), exist_ok=True)
    with open(RESULT_PATH, "w", encoding="utf-8") as file:
        machine: dict[str, object] = {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        }
        machine["load_before"] = load
        result = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "plan": asdict(plan), **machine}
        json.dump({**result, "rows": [asdict(row) for row in rows]}, file, indent=1)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
