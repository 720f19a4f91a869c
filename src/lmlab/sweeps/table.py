"""Many runs as one table: what was swept, what came out, seeds folded into mean ± deviation."""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lmlab.errors import LabError
from lmlab.fingerprint import determining
from lmlab.runs import RECORD, Run

STATUSES = ("done", "running", "interrupted", "pruned", "failed", "killed")
ENDED_BADLY = ("failed", "killed", "interrupted")
SEED = "seed"
# What a config does not say, but a record does: the text itself, and one's own code.
TOLD_APART = ("corpus_sha256", "code")
COMPUTED_ON = ("threads", "processor", "device")


@dataclass(frozen=True)
class Row:
    """One run, as its record tells. What a damaged record lacks is None."""

    run: Run
    status: str
    record: dict[str, Any]

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def swept(self) -> dict[str, Any]:
        """The keys that its sweep varied, with this run's values."""
        return _mapping(self.record.get("swept"))

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """Every dotted key that determines its result; None if the config cannot be read."""
        try:
            return determining(self.run.config)
        except LabError:
            return None

    @property
    def seed(self) -> Any:
        return self.swept.get(SEED, (self.config or {}).get(SEED))

    def value(self, key: str) -> Any:
        """What it had for a dotted key, or for one of TOLD_APART; MISSING if it has no such."""
        if key in TOLD_APART:
            return self._told(key)
        return self.swept.get(key, (self.config or {}).get(key, MISSING))

    def metric(self, name: str) -> float | None:
        return _number(_mapping(self.record.get("metrics")).get(name))

    @property
    def best(self) -> float | None:
        """The lowest val/loss of all evaluations so far."""
        return _number(_mapping(self.record.get("best")).get("val/loss"))

    def _told(self, key: str) -> Any:
        found = self.record.get(key)
        if not found:
            return MISSING
        told = found if isinstance(found, str) else canonical(found)
        return told if key == "corpus_sha256" else hashlib.sha256(told.encode()).hexdigest()[:8]

    @property
    def computed_on(self) -> list[dict[str, Any]]:
        """Threads, processor and device, of each machine that it was trained on."""
        now = {key: self.record[key] for key in COMPUTED_ON if key in self.record}
        before = self.record.get("computed_before")
        return [now] * bool(now) + (list(map(_mapping, before)) if isinstance(before, list) else [])

    @property
    def step(self) -> int | None:
        return _whole(self.record.get("step"))

    @property
    def parameters(self) -> int | None:
        return _whole(self.record.get("parameters"))

    @property
    def tokens(self) -> int | None:
        return _whole(self.record.get("tokens"))

    @property
    def seconds(self) -> float | None:
        seconds = _number(self.record.get("seconds"))
        return seconds if seconds is not None and math.isfinite(seconds) else None

    @property
    def error(self) -> str:
        """Why it is not done, on one line; empty if it is, or if it says nothing."""
        said = " ".join(str(self.record.get("error") or "").split())
        if self.status == "interrupted":
            return said or f"stopped at step {self.step}; the same command goes on"
        if self.status == "killed":
            return said or f"its process ended without a word after step {self.step}"
        return said


class _Missing:
    """The value of a key that a run does not have."""

    def __repr__(self) -> str:
        return "-"


MISSING = _Missing()


@dataclass(frozen=True)
class Metric:
    """A figure to sort and draw by."""

    name: str  # the heading: what, of which split
    unit: str
    protocol: str  # which tokens, in words; {full} and {evals} are filled in from the configs
    read: Callable[[Row], float | None]


METRICS = {
    "val/loss_full": Metric(
        "val/loss_full", "nats per token", "{full}", lambda row: row.metric("val/loss_full")
    ),
    "val/bpc": Metric("val/bpc", "bits per character", "{full}", lambda row: row.metric("val/bpc")),
    "best": Metric(
        "best val/loss",
        "nats per token",
        "lowest of a run's evaluations, {evals}",
        lambda row: row.best,
    ),
}


@dataclass(frozen=True)
class Mean:
    """Over the seeds that are done: mean and standard deviation (n - 1; None for one seed)."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Mean | None:
        values = list(values)
        if not values:
            return None
        if not all(map(math.isfinite, values)):
            worst = math.nan if any(map(math.isnan, values)) else math.inf
            return cls(worst, None, len(values))
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(float(statistics.mean(values)), deviation, len(values))


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed."""

    values: dict[str, Any]  # of each column
    rows: list[Row]

    @cached_property
    def counted(self) -> list[Row]:
        """The runs that are done; one for each seed, the newest, for a repetition tells nothing."""
        newest: dict[str, Row] = {}
        for row in sorted(self.rows, key=lambda row: str(row.record.get("started"))):
            if row.status == "done":
                newest[canonical(row.seed) if row.seed is not None else str(row.path)] = row
        return list(newest.values())

    def mean(self, metric: str) -> Mean | None:
        """A metric over the seeds. A run alone that is not done tells its best so far."""
        rows = self.counted
        if not rows and metric == "best" and len(self.rows) == 1:
            rows = self.rows
        return Mean.of(x for x in map(METRICS[metric].read, rows) if x is not None)

    def average(self, name: str) -> float | None:
        """A quantity of runs by its name in Row, meant over those that are done, or else all."""
        values = [getattr(row, name) for row in self.counted or self.rows]
        values = [value for value in values if value is not None]
        return statistics.fmean(values) if values else None

    @property
    def status(self) -> str:
        """`done`; for several runs `3 done`, `2 done, 1 failed`."""
        if len(self.rows) == 1:
            return self.rows[0].status
        return counted(self.rows)

    @property
    def seeds(self) -> list[Any]:
        return [row.seed for row in self.counted]

    def best_row(self, metric: str) -> Row:
        """The run with the lowest of a metric."""
        return min(self.counted or self.rows, key=lambda row: rank(METRICS[metric].read(row)))


@dataclass(frozen=True)
class Table:
    """The runs below some folders."""

    rows: list[Row]
    columns: list[str]  # the keys that vary, the seed not among them
    groups: list[Group]
    metric: str  # sorted by it, best first
    unreadable: list[str]  # what is wrong with each record that was left out

    @property
    def best(self) -> Group | None:
        """The setting with the lowest loss, if any has one."""
        first = self.groups[0] if self.groups else None
        mean = None if first is None else first.mean(self.metric)
        return first if mean is not None and math.isfinite(mean.mean) else None


def read(folders: Iterable[Path]) -> tuple[list[Row], list[str]]:
    """Every run below the folders, in the order they were started, and what cannot be read.

    Reads run.json alone, so it is cheap enough to be asked again while a sweep runs.

    Raises:
        LabError: if a folder is none.
    """
    rows: dict[Path, Row] = {}
    unreadable = []
    for folder in folders:
        if not folder.is_dir():
            raise LabError(f"{folder}: no such directory; sweeps are kept in outputs/sweeps/<name>")
        for path in _run_dirs(folder):
            run = Run(path)
            try:
                rows[path.resolve()] = Row(run, run.status, run.unchecked_record)
            except LabError as error:
                unreadable.append(" ".join(str(error).split()))
    by_start = sorted(rows.values(), key=lambda r: (str(r.record.get("started")), str(r.path)))
    return by_start, sorted(unreadable)


def _run_dirs(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        if RECORD in files:
            folders.clear()  # a run holds no runs
            yield Path(path)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def tabulate(rows: list[Row], unreadable: list[str], metric: str | None = None) -> Table:
    """Fold runs that differ in nothing but the seed, and sort them by a metric.

    The columns are the keys of the sweep that vary. What the sweep does not tell apart (two sweeps
    in one folder, runs begun by hand) the stored configs do: whatever differs there is a column
    too, so that only seeds are ever folded. So is the text, or the code of one's own, where it was
    edited between runs of one config.
    """
    keys = dict.fromkeys(key for row in rows for key in row.swept if key != SEED)
    columns = [key for key in keys if _varies(row.value(key) for row in rows)]
    columns += _told_by_configs(_grouped(rows, columns))
    columns += [key for key in TOLD_APART if _differs_within(_grouped(rows, columns), key)]
    metric = metric or _fitting_metric(rows)
    groups = [
        Group({key: of_group[0].value(key) for key in columns}, of_group)
        for of_group in _grouped(rows, columns)
    ]

    def place(group: Group) -> tuple[Any, ...]:
        found = (group.mean(metric), group.mean("best"))
        return tuple(rank(None if mean is None else mean.mean) for mean in found)

    return Table(rows, columns, sorted(groups, key=place), metric, unreadable)


def _fitting_metric(rows: list[Row]) -> str:
    """Nats per token cannot be compared across tokenizers or texts; bits per character rather."""
    texts = {canonical(row.record.get("corpus_sha256")) for row in rows} - {canonical(None)}
    tokenizers = {
        canonical({key: value for key, value in row.config.items() if key.startswith("tokenizer.")})
        for row in rows
        if row.config is not None
    }
    return "val/bpc" if len(texts) > 1 or len(tokenizers) > 1 else "val/loss_full"


def _grouped(rows: list[Row], columns: list[str]) -> list[list[Row]]:
    """Rows that have the same values, in order. One without a readable config is alone."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        values = [canonical(row.value(key)) for key in columns]
        if row.config is None and not row.swept:
            values.append(str(row.path))
        groups.setdefault(tuple(values), []).append(row)
    return list(groups.values())


def _told_by_configs(groups: list[list[Row]]) -> list[str]:
    """The keys whose values differ within a group, beside the seed.

    Where a `_target_` differs, of the keys beside it (which belong to one class or the other) only
    those are told that tell more runs apart.
    """
    differing: dict[str, None] = {}
    for group in groups:
        configs = [row.config for row in group if row.config is not None]
        for key in dict.fromkeys(key for config in configs for key in config):
            if key != SEED and _varies(config.get(key, MISSING) for config in configs):
                differing[key] = None
    chosen: list[str] = []
    rows = [row for group in groups for row in group]
    for key in sorted(differing, key=lambda key: not key.endswith("_target_")):
        beside = any(
            key.startswith(other.removesuffix("_target_"))
            for other in chosen
            if other.endswith("_target_")
        )
        if not beside or len(_grouped(rows, [*chosen, key])) > len(_grouped(rows, chosen)):
            chosen.append(key)
    return chosen


def _differs_within(groups: list[list[Row]], key: str) -> bool:
    """Whether a group's runs have two values of it. (A run that failed early has none.)"""
    told = ([row.value(key) for row in group] for group in groups)
    return any(_varies(value for value in values if value is not MISSING) for values in told)


def _varies(values: Iterable[Any]) -> bool:
    return len({canonical(value) for value in values}) > 1


def canonical(value: Any) -> str:
    """A text that values share if they are equal in a config: 1 and 1.0, but not 1 and true."""
    return json.dumps(_as_floats(value), sort_keys=True, default=repr)


def _as_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _as_floats(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_floats(inner) for inner in value]
    is_count = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
    return float(value) if is_count else value


def shown(value: Any, width: int | None = None) -> str:
    """A value as one would type it; a long number rounded, a long text cut to a width."""
    if value is None or isinstance(value, bool | list | dict):
        text = json.dumps(value, ensure_ascii=False, default=repr)
    elif isinstance(value, float):
        text = f"{value:g}"
        if float(text) != value and value == value:
            text = repr(value) if len(repr(value)) <= 8 else f"{value:.4g}"
    else:
        text = str(value)
    text = " ".join(text.split())
    if width is not None and len(text) > width:
        text = f"{text[: width // 2 - 1]}…{text[-(width // 2) :]}"
    return text


def counted(rows: Iterable[Row]) -> str:
    """How many runs are how: `9 done, 1 failed`."""
    counts = Counter(row.status for row in rows)
    known = [status for status in STATUSES if status in counts]
    others = sorted(set(counts) - set(STATUSES))
    return ", ".join(f"{counts[status]} {status}" for status in [*known, *others])


def rank(value: float | None) -> tuple[int, float]:
    """For sorting: numbers, then infinity, NaN, nothing."""
    if value is None:
        return 2, 0.0
    return (1, 0.0) if math.isnan(value) else (0, value)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _whole(value: Any) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return value if is_whole else None
