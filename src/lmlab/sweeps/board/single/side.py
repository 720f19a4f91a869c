"""What the tab shows of a few runs or settings side by side, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lmlab.errors import LabError
from lmlab.sweeps.board.rows import cut, job_row, made_with
from lmlab.sweeps.board.scan import SeenRun, SeenSweep
from lmlab.sweeps.table.curves import read_curves
from lmlab.sweeps.table.keys import key_values
from lmlab.sweeps.table.reading import RECORDED_KEYS, SEED, RunFiles
from lmlab.sweeps.table.settings import BEST, BPC, LOSS, METRICS, Table, folded
from lmlab.sweeps.table.values import canonical, label
from lmlab.sweeps.table.words import amount, count, duration, figure, name_of

MOST = 6  # of them beside each other
SETTING = "~"  # before the name of a run: its setting is meant, whatever place that has by now
MOST_SEEDS = 3  # values of the runs of a setting that are told one by one
QUANTITIES: dict[str, tuple[str, Callable[[float], str]]] = {
    "steps": ("step", count),
    "tokens": ("tokens", amount),
    "parameters": ("parameters", count),
    "FLOPs": ("flops", amount),
    "time": ("seconds", duration),
}


@dataclass(frozen=True)
class Chosen:
    """A run, or a setting: what it is called in the address, and its runs, which may be gone."""

    word: str
    runs: tuple[SeenRun, ...]
    first: SeenRun | None  # the run that it is named by: its sample and its pictures are shown
    title: str
    table: Table | None  # of the setting's sweep
    setting: int | None

    @property
    def files(self) -> list[RunFiles]:
        return [run.files for run in self.runs if run.files]

    def curves_of(self) -> pd.DataFrame:
        """The runs that its curve is the mean of: columns directory and diverged."""
        if self.table is not None:
            runs = self.table.runs
            return folded(runs[runs["setting"] == self.setting])[["directory", "diverged"]]
        rows = [(str(files.path), files.diverged) for files in self.files]
        return pd.DataFrame(rows, columns=["directory", "diverged"])


def words_in(name: str) -> list[str]:
    """What was chosen, as it stands in the address: a list in JSON.

    Raises:
        LabError: if it is none, or of too many.
    """
    try:
        words = json.loads(name)
    except (ValueError, RecursionError) as error:
        raise LabError("what is chosen cannot be read") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise LabError("what is chosen cannot be read")
    if not 1 <= len(words) <= MOST:
        raise LabError(f"choose one to {MOST}, not {len(words)}")
    return list(dict.fromkeys(words))


def choose(
    words: Sequence[str],
    run_of: Callable[[str], SeenRun | None],
    sweeps: Mapping[str, SeenSweep],
) -> list[Chosen]:
    """What these words stand for, as it is now."""
    firsts = [run_of(word.removeprefix(SETTING)) for word in words]
    names = {run.sweep for run in firsts if run}
    tables = {
        name: table
        for word, run in zip(words, firsts, strict=True)
        if word.startswith(SETTING) and run and run.files and (name := run.sweep) in sweeps
        if (table := sweeps[name].table) is not None
    }
    chosen = []
    for word, run in zip(words, firsts, strict=True):
        table = tables.get(run.sweep) if run and word.startswith(SETTING) else None
        setting_of = {} if table is None else dict(_settings(table))
        setting = None if run is None else setting_of.get(str(run.path))
        if run is None:
            chosen.append(Chosen(word, (), None, cut(word, 300), None, None))
        elif table is None or setting is None:  # a run; or one that has begun a moment ago
            title = run.name.removeprefix(f"{run.sweep}/") if len(names) == 1 else run.name
            chosen.append(Chosen(word, (run,), run, cut(title, 300), None, None))
        else:
            sweep = sweeps[run.sweep]
            runs = tuple(r for r in sweep.runs if setting_of.get(str(r.path)) == setting)
            where = "" if len(names) == 1 else f" ({sweep.title})"
            title = f"{name_of(table, setting)}{where}"
            chosen.append(Chosen(word, runs, run, cut(title, 300), table, setting))
    return chosen


def _settings(table: Table) -> Iterator[tuple[str, int]]:
    """The setting of each run's directory."""
    for directory, setting in table.runs[["directory", "setting"]].itertuples(index=False):
        yield directory, int(setting)


def about_side(chosen: Sequence[Chosen]) -> dict[str, Any]:
    """Columns, and rows of what they hold: keys, figures, machine."""
    keys = _keys(chosen)
    notes = []
    if any(key.startswith("tokenizer.") or key == "corpus_sha256" for key, *_ in keys):
        notes.append("tokens differ: compare bits per character, not nats per token")
    if any(key == "eval.full" for key, *_ in keys):
        notes.append("eval.full differs: val/loss_full is not of the same tokens of val")
    if any(len(one.runs) > 1 for one in chosen):
        notes.append("of several seeds: mean ± standard deviation")
    return {
        "columns": [_column(one) for one in chosen],
        "keys": [[cut(key, 300), cells, True] for key, cells in keys],
        "figures": _figures(chosen),
        "machine": _machine(chosen),
        "notes": notes,
    }


def curves_of(chosen: Sequence[Chosen]) -> dict[str, Any]:
    """Vega-Lite by the name of the figure: losses while training, of all in one."""
    from lmlab.sweeps.figures.charts import spec_of
    from lmlab.sweeps.figures.side_by_side import TAGS, losses_side_by_side

    frames = [one.curves_of().assign(setting=i) for i, one in enumerate(chosen)]
    curves = read_curves(pd.concat(frames, ignore_index=True), TAGS)
    if curves[list(TAGS)].notna().to_numpy().any():
        return {"curves": spec_of(losses_side_by_side(curves, [one.title for one in chosen]))}
    return {}


def _column(one: Chosen) -> dict[str, Any]:
    if one.first is None:
        return {"word": one.word, "title": one.title, "problem": "there is no such run any more"}
    row = job_row(one.first, None)
    return {
        "word": one.word,
        "title": one.title,
        "sweep": one.first.sweep,
        "run": one.first.name,
        "n": len(one.runs),
        "is_setting": one.setting is not None,
        "statuses": [cut(run.status, 40) for run in one.runs],
        "problem": row.get("error") or "",
    }


def _keys(chosen: Sequence[Chosen]) -> list[tuple[str, list[str]]]:
    """The keys of the configs in which they differ."""
    values = key_values([files for one in chosen for files in one.files])
    column = pd.Series([i for i, one in enumerate(chosen) for _ in one.files], dtype=object)
    is_of_several = any(len(one.files) > 1 for one in chosen)
    rows = []
    for key in values:
        if (key == SEED and is_of_several) or key.endswith("._partial_"):
            continue  # a setting is over all of its seeds; how a part is made says nothing of it
        by_column = {i: list(of_column) for i, of_column in values[key].groupby(column)}
        different = {tuple(sorted(set(map(canonical, v)))) for v in by_column.values()}
        if len(different) > 1:
            texts = [_several(key, by_column.get(i, [])) for i in range(len(chosen))]
            rows.append((key, list(map(cut, texts))))
    return rows


def _several(key: str, values: Sequence[Any]) -> str:
    texts = list(dict.fromkeys(label("" if key in RECORDED_KEYS else key, v, None) for v in values))
    more = ", …" if len(texts) > MOST_SEEDS else ""
    return ", ".join(texts[:MOST_SEEDS]) + more


def _figures(chosen: Sequence[Chosen]) -> list[list[Any]]:
    """Rows of [name, a text for each, whether they differ]."""
    means = [_means(one) for one in chosen]
    rows = []
    for metric in (LOSS, BEST, BPC):
        texts = [figure(*m[metric]) if m and not math.isnan(m[metric][0]) else "" for m in means]
        rows.append([f"{metric}, {METRICS[metric].unit}", texts])
    for name, (_, write) in QUANTITIES.items():
        rows.append([name, [write(m[name][0]) if m else "" for m in means]])
    return [[name, texts, len(set(texts)) > 1] for name, texts in rows if any(texts)]


def _means(one: Chosen) -> dict[str, tuple[float, float]]:
    """Mean and deviation of each figure: of a setting those of the leaderboard."""
    if not one.files:
        return {}
    if one.table is not None:
        row = one.table.settings.loc[one.setting]
        pairs = {metric: (row[metric], row[f"{metric} sd"]) for metric in METRICS}
        pairs |= {name: (row[column], math.nan) for name, (column, _) in QUANTITIES.items()}
    else:
        row = one.files[0].figures()
        names = {metric: metric for metric in METRICS}
        names |= {name: column for name, (column, _) in QUANTITIES.items()}
        pairs = {name: (row[column], math.nan) for name, column in names.items()}
    return {
        name: (math.nan if mean is None else float(mean), float(deviation))
        for name, (mean, deviation) in pairs.items()
    }


def _machine(chosen: Sequence[Chosen]) -> list[list[Any]]:
    """Rows of [name, a text for each, whether they differ]; those that differ first."""
    by_column = [[made_with(files.record) for files in one.files] for one in chosen]
    names = dict.fromkeys(name for runs in by_column for made in runs for name in made)
    rows = []
    for name in names:
        texts = [cut(_several("", [m.get(name, math.nan) for m in runs])) for runs in by_column]
        known = {text for text, runs in zip(texts, by_column, strict=True) if runs}
        rows.append([cut(name, 300), texts, len(known) > 1])
    return sorted(rows, key=lambda row: not row[2])
