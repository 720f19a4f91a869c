"""python scripts/bench.py [part …] [--quick] [--markdown]: see docs/performance.md, or --help."""

import argparse
import importlib
import sys
from pathlib import Path

PARTS = (
    "steps",
    "recipe",
    "batches",
    "sampling",
    "corpus",
    "startup",
    "sweeps",
    "records",
    "board",
    "race",
    "questions",
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What the lab costs beside loops written by hand.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; else all")
    parser.add_argument("--quick", action="store_true", help="a few minutes, rougher figures")
    parser.add_argument("--rounds", type=int, help="how often each contestant has its turn")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench.json"))
    parser.add_argument("--markdown", action="store_true", help="only show --out, as the docs do")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")

    from benchmarks import report
    from lmlab.errors import LabError

    if given.markdown:
        where, parts = report.read(given.out)
        print(f"\n{report.about(where)}")
        for table in report.tables(parts):
            print(f"\n**{table.title}**\n\n{report.markdown(table)}")
        sys.exit()

    where, parts = report.machine(), []
    rounds = given.rounds or (2 if given.quick else 5)
    for name in given.parts or PARTS:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            parts.append(importlib.import_module(f"benchmarks.{name}").run(rounds, given.quick))
        except LabError as error:
            sys.exit(f"error: {error}")
        report.write(given.out, where, parts)
    print("\n\n".join(map(report.plain, report.tables(parts))))
    print(f"\nkept in {given.out}")
