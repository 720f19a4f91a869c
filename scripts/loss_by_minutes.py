"""python scripts/loss_by_minutes.py RUN … --out FILE.png: val loss of runs by minutes of training.

A run is LABEL=PATH, or a path, and then called by its config's name. Lines are val/loss, of some
windows; the circle is val/loss_full, of the whole split, when everything was done.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from lmlab.handles import Run
from lmlab.sweeps.table.taken import read_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    ax = figure.subplots()
    for named in given.runs:
        label, _, path = named.rpartition("=")
        run = Run(path)
        evaluations = run.curves().loc[1:].dropna(subset=["val/loss"])
        if "seconds" not in evaluations:  # an earlier lmlab wrote them into the event files alone
            evaluations["seconds"] = evaluations.index.map(read_seconds(path))
        (line,) = ax.plot(
            evaluations["seconds"] / 60,
            evaluations["val/loss"],
            marker=".",
            label=f"{label or run.config['name']} ({run.metrics['val/loss_full']:.3f})",
        )
        ax.plot(
            run.record["seconds"] / 60,
            run.metrics["val/loss_full"],
            marker="o",
            color=line.get_color(),
        )
    ax.axhline(1.4697, color="grey", linewidth=0.8, linestyle="--", label="nanoGPT on a GPU")
    ax.set_xscale("log")
    ax.set_ylim(1.35, 2.2)
    ax.set_xlabel("minutes of training")
    ax.set_ylabel("val loss, nats per character")
    ax.legend()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.out, dpi=110)


if __name__ == "__main__":
    main()
