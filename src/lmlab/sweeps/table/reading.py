"""Finding runs below folders, and what each run's files hold, however damaged."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmlab.config.fingerprint import determining
from lmlab.errors import LabError
from lmlab.runs.directory import RECORD, RunDirectory
from lmlab.sweeps.table.values import canonical

SEED = "seed"
# Two runs of one config differ all the same if the text or the user's own code was edited between
# them. Only run.json has these, not the config.
RECORDED_KEYS = ("corpus_sha256", "code")
# What the records of before `diverged` was one of their fields say of runs that did.
NO_NUMBER = re.compile(r"\b(loss|val/\S+|weights) became (infinite or NaN|nan|-?inf)\b")
COMPUTED_ON = ("threads", "processor", "device")


@dataclass(frozen=True)
class RunFiles:
    """One run as its files describe it. Whatever is missing or nonsense in them is None."""

    path: Path
    status: str
    record: dict[str, Any]  # run.json
    config: dict[str, Any] | None  # dotted keys that determine the result; None if unreadable

    def as_it_stands(self) -> RunFiles:
        """As it is while its record is as it was: whether a process trains in it, that does not
        tell."""
        if self.record.get("status") != "running":
            return self
        status = "running" if RunDirectory(self.path).is_locked() else "killed"
        return replace(self, status=status)

    @property
    def swept(self) -> dict[str, Any]:
        """The keys that its sweep varied, with this run's values."""
        return _mapping(self.record.get("swept"))

    @property
    def choices(self) -> dict[str, Any]:
        """The option of each config group: {"model": "head"}."""
        return _mapping(self.record.get("choices"))

    @property
    def seed(self) -> Any:
        return self.swept.get(SEED, (self.config or {}).get(SEED))

    @property
    def recorded_keys(self) -> dict[str, Any]:
        """The values of RECORDED_KEYS; NaN where there is none."""
        sha, code = self.record.get("corpus_sha256"), self.record.get("code")
        return {
            "corpus_sha256": (sha if isinstance(sha, str) else canonical(sha)) if sha else math.nan,
            "code": hashlib.sha256(canonical(code).encode()).hexdigest()[:8] if code else math.nan,
        }

    @property
    def computed_on(self) -> list[dict[str, Any]]:
        """Threads, processor and device of each machine that it was trained on."""
        now = {key: self.record[key] for key in COMPUTED_ON if key in self.record}
        before = self.record.get("computed_before")
        return [now, *map(_mapping, before if isinstance(before, list) else [])]

    @property
    def before(self) -> dict[str, float]:
        """Steps, tokens and FLOPs of the run whose checkpoint it began from, up to there."""
        before = _mapping(self.record.get("before"))
        return {key: _number(before.get(key)) or 0.0 for key in ("step", "tokens", "flops")}

    @property
    def metrics(self) -> dict[str, float]:
        """Those of its last evaluation, by name."""
        metrics = _mapping(self.record.get("metrics"))
        numbers = {str(name): _number(value) for name, value in metrics.items()}
        return {name: value for name, value in numbers.items() if value is not None}

    def figures(self) -> dict[str, Any]:
        """Its row of `lmlab.sweeps.table.settings.runs_frame`, but for the keys."""
        metrics, best = _mapping(self.record.get("metrics")), _mapping(self.record.get("best"))
        seconds = _number(self.record.get("seconds"))
        return {
            "seed": self.seed,
            "val/loss_full": _number(metrics.get("val/loss_full")),
            "val/bpc_full": _number(metrics.get("val/bpc_full")),
            "best val/loss": _number(best.get("val/loss")),
            "seconds": seconds if seconds is not None and math.isfinite(seconds) else None,
            "step": _whole(self.record.get("step")),
            "parameters": _whole(self.record.get("parameters")),
            "tokens": _whole(self.record.get("tokens")),
            "flops": _number(self.record.get("flops")),
            "status": self.status,
            "error": self.error,
            "diverged": self.diverged,
            "directory": str(self.path),
        }

    @property
    def diverged(self) -> bool:
        """Whether it ended because its loss or its weights became infinite or NaN, or with such a
        loss."""
        if self.status == "done":
            loss = _number(_mapping(self.record.get("metrics")).get("val/loss_full"))
            return loss is not None and not math.isfinite(loss)
        says_so = self.record.get("diverged") is True or bool(NO_NUMBER.search(self.error))
        return says_so and self.status == "failed"

    @property
    def error(self) -> str:
        """Why it is not done, on one line; empty if it is, or if the record has no reason."""
        reason = " ".join(str(self.record.get("error") or "").split())
        step = _whole(self.record.get("step"))
        if not reason and self.status == "interrupted":
            return f"stopped at step {step}; the same command goes on"
        if not reason and self.status == "paused":
            return f"paused at step {step}; run= goes on"
        if not reason and self.status == "killed":
            return f"its process ended without a word after step {step}"
        return reason


def read(folders: Iterable[Path]) -> tuple[list[RunFiles], list[str]]:
    """Every run below the folders, in the order they were started, and what cannot be read.

    Raises:
        LabError: if a folder is not there.
    """
    runs: dict[Path, RunFiles] = {}
    unreadable = []
    for folder in folders:
        if not folder.is_dir():
            raise LabError(f"{folder}: no such directory; sweeps are kept in outputs/sweeps/<name>")
        for path in _run_dirs(folder):
            try:
                runs[path.resolve()] = read_run(path)
            except LabError as error:
                unreadable.append(" ".join(str(error).split()))
    return sorted(runs.values(), key=started), sorted(unreadable)


def started(run: RunFiles) -> tuple[str, Path]:
    """To sort runs by: when they were."""
    return str(run.record.get("started")), run.path


def read_run(path: Path) -> RunFiles:
    """
    Raises:
        LabError: if its record cannot be read.
    """
    run = RunDirectory(path)
    record = run.unchecked_record
    status = str(record.get("status"))
    if status == "running":  # or else it has ended by now
        status, record = run.status, run.unchecked_record
    return RunFiles(path, status, record, _config(run))


def _run_dirs(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        if RECORD in files:
            folders.clear()  # a run holds no runs
            yield Path(path)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _config(run: RunDirectory) -> dict[str, Any] | None:
    try:
        return determining(run.config)
    except LabError:
        return None


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
