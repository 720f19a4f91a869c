"""A run is a directory that explains itself.

config.yaml     what was composed, resolved
run.json        status, step, metrics, fingerprint, versions, git commit
checkpoints/    the newest few, by step, and best.ckpt
metrics.csv     and TensorBoard's event files: the curves
snapshots/      weights at the ends of cycles, with callbacks=snapshots
projector/      its token embeddings, for TensorBoard
sample.txt      the last text it made
train.log       what was printed, and warnings
tokenizer.json  of a run that began from another's checkpoint: its parent's
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock
import yaml

from lmlab.config.fingerprint import fingerprint
from lmlab.config.schema import Train
from lmlab.config.stored import with_todays_defaults
from lmlab.console import say
from lmlab.errors import LabError
from lmlab.files import (
    check_place,
    check_stays_in,
    is_locked,
    leads_out,
    lock_at,
    path_typed,
    remove,
    remove_unfinished,
    write_atomically,
)
from lmlab.runs.provenance import git_commit, versions
from lmlab.runs.record import Dumper, check_record, read_config, read_record, read_sample

RECORD, CONFIG, CHECKPOINTS, SNAPSHOTS = "run.json", "config.yaml", "checkpoints", "snapshots"
SAMPLE, LOG, LOCK = "sample.txt", "train.log", ".lock"
TOKENIZER = "tokenizer.json"
METRICS, PROJECTOR, PROJECTOR_CONFIG = "metrics.csv", "projector", "projector_config.pbtxt"
SPENT_COLUMNS = ("seconds", "tokens", "flops")  # beside each row of METRICS, as RECORD has them
EVENTS = "events.out.tfevents."  # how TensorBoard knows an event file
FILES = (RECORD, CONFIG, SAMPLE, LOG, LOCK, TOKENIZER, METRICS, PROJECTOR_CONFIG)
# The checkpoints that are ours to delete: by step, and Lightning's when SLURM takes the machine.
STEP_CHECKPOINT = re.compile(r"step-([0-9]{8,18})\.ckpt")
REQUEUED = re.compile(r"hpc_ckpt_\d+\.ckpt")
# Names of a group and of its option.
GROUP, OPTION = re.compile(r"[a-z]\w*(/\w+)*"), re.compile(r"\w[\w-]*([./]\w[\w-]*)*")
# Metrics of the end of a run: one that goes on longer has another end.
OF_THE_END = (
    *("val/loss_full", "val/bpc_full", "val/bpb_full", "val/loss_full_ema", "val/loss_dynamic"),
)


class RunDirectory:
    """One run directory."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(cls, config: Train, **asked: Any) -> RunDirectory:
        """A new directory with the config and a record in it, status `running`.

        `asked` goes into the record, see `begin`.

        Raises:
            LabError: if it cannot be made, or `run_dir` names one that holds a run already.
        """
        if config.run_dir is not None:
            path = Path(config.run_dir)
            if (path / RECORD).exists():
                raise LabError(
                    f"run_dir={path} holds a run already; choose another, or go on with it by "
                    "resume=auto"
                )
            _make(path, exist_ok=True)
        else:
            stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
            stem = Path(config.output_dir) / config.name / stamp
            path, n = stem, 1
            while not _make(path, exist_ok=False):  # runs begun in the same second count on
                n += 1
                path = stem.with_name(f"{stamp}-{n}")
        run = cls(path)
        run.check_places()
        run.begin(config.plain(), **asked)
        return run

    def begin(
        self,
        config: dict[str, Any],
        swept: dict[str, Any] | None = None,
        choices: dict[str, str] | None = None,
    ) -> None:
        """Write the config and a first record; where there is one, that the run goes on.

        `swept` are the keys that a sweep varies, with this run's values; `choices` the option of
        each group that the config was composed of. Both are of a first record.
        """
        record = self.record
        if record:
            record |= {"status": "running", "error": None, "pause_at": config["pause_at"]}
        else:
            origin = {"swept": swept, "choices": choices, "parent": config["from"]}
            origin["pause_at"] = config.get("pause_at")
            record = {
                "status": "running",
                **{name: value for name, value in origin.items() if value is not None},
                "step": 0,
                "metrics": {},
                "seconds": 0.0,
                "fingerprint": fingerprint(config),
                "started": datetime.now().astimezone().isoformat(timespec="seconds"),
                "versions": versions(),
                "git_commit": git_commit(),
            }
        self.store(config)
        self._write(record)

    @classmethod
    def open(cls, path: str, key: str = "run") -> RunDirectory:
        """The run at `path`, which the config names at `key`.

        Raises:
            LabError: if there is no run directory.
        """
        run = cls(path_typed(path, key))
        if not run.path.is_dir():
            raise LabError(
                f"{key}={path}: no such directory; runs are kept in outputs/<name>/<time>"
            )
        if not (run.path / CONFIG).is_file():
            raise LabError(f"{key}={path} is not a run directory: it holds no {CONFIG}")
        return run

    def store(self, config: dict[str, Any]) -> None:
        """Write the config, without the keys that only say how the run was started."""
        unset = dict.fromkeys(("run", "resume", "pause_at", "sweep"))
        config = {**config, **unset, "dry_run": False}
        text = yaml.dump(config, Dumper=Dumper, sort_keys=False)
        write_atomically(self.path / CONFIG, text.encode())

    def keep_corpus(self, corpus: dict[str, Any], sha256: str) -> None:
        """Put into the config where the text of this digest, which the run read, is now."""
        try:
            config = self.config
            if config["corpus"] == corpus or self.record.get("corpus_sha256") != sha256:
                return
            with self.locked():
                self.store({**config, "corpus": corpus})
        except (LabError, KeyError) as error:
            say(f"{self.path / CONFIG} still says where its text was: {error}")
        else:
            say(f"{self.path / CONFIG} says where its text is now")

    @property
    def config(self) -> dict[str, Any]:
        """The config it was started with, as it reads today."""
        return with_todays_defaults(read_config(self.path / CONFIG))

    @property
    def record(self) -> dict[str, Any]:
        """What run.json holds, its types checked; empty before it is first written."""
        record = self.unchecked_record
        if record:
            check_record(record, self.path / RECORD)
        return record

    @property
    def choices(self) -> dict[str, str]:
        """The option of each group that its config was composed of, as far as these are names of
        groups and options; none of Hydra's own."""
        return {
            group: option
            for group, option in (self.record.get("choices") or {}).items()
            if GROUP.fullmatch(group)
            and OPTION.fullmatch(option)
            and group.partition("/")[0] not in ("hydra", "experiment", "sweep")
        }

    @property
    def unchecked_record(self) -> dict[str, Any]:
        """What run.json holds, of any type: enough to be shown."""
        return read_record(self.path / RECORD)

    def update(self, **fields: Any) -> None:
        """Put fields into run.json, atomically.

        Raises:
            LabError: if it is not there: somebody moved or deleted the directory.
        """
        self._put(fields)

    def note(self, **fields: Any) -> None:
        """As `update`, of how far a run is: training does not wait for the disk.

        Raises:
            LabError: see there.
        """
        self._put(fields, waits=False)

    def _put(self, fields: dict[str, Any], waits: bool = True) -> None:
        record = self.record
        if not record:
            raise LabError(f"run={self.path} is gone: it was moved or deleted while it was trained")
        self._write({**record, **fields}, waits)

    def _write(self, record: dict[str, Any], waits: bool = True) -> None:
        content = (json.dumps(record, indent=2) + "\n").encode()
        write_atomically(self.path / RECORD, content, waits=waits)

    @property
    def sample(self) -> str | None:
        """The last text it made; bytes that are no UTF-8 become U+FFFD."""
        return read_sample(self.path / SAMPLE)

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest val/loss of all evaluations."""
        return self.path / CHECKPOINTS / "best.ckpt"

    def step_checkpoint(self, step: int) -> Path:
        """Where the checkpoint of one step is kept."""
        return self.path / CHECKPOINTS / f"step-{step:08}.ckpt"

    def checkpoints(self) -> list[Path]:
        """The checkpoints by step, newest first. One that Lightning wrote when SLURM took the
        machine away comes before all others: it lasts only until the next is written."""
        by_step = self.checkpoints_by_step()
        requeued = sorted(self._requeued(), key=lambda path: path.lstat().st_mtime)
        return [*reversed(requeued), *(by_step[step] for step in sorted(by_step, reverse=True))]

    def checkpoints_by_step(self) -> dict[int, Path]:
        """Those that are called by their step."""
        return self._by_step(CHECKPOINTS)

    def snapshot(self, step: int) -> Path:
        """Where the weights of a cycle's end are kept."""
        return self.path / SNAPSHOTS / f"step-{step:08}.ckpt"

    def snapshots_by_step(self) -> dict[int, Path]:
        """The weights of cycles' ends, the first one first."""
        return dict(sorted(self._by_step(SNAPSHOTS).items()))

    def _by_step(self, folder: str) -> dict[int, Path]:
        paths = (self.path / folder).glob("step-*.ckpt")
        return {int(m[1]): path for path in paths if (m := STEP_CHECKPOINT.fullmatch(path.name))}

    def _requeued(self) -> list[Path]:
        return [p for p in self.path.glob("hpc_ckpt_*.ckpt") if REQUEUED.fullmatch(p.name)]

    def forget_requeued(self) -> None:
        """Delete what was written for SLURM: going on from it has led to a later checkpoint."""
        for path in self._requeued():
            if not path.is_dir():
                remove(path, self.path)

    def check_checkpoint(self, path: Path) -> None:
        """Whether a checkpoint of this run, or one given by its path, may be read.

        Raises:
            LabError: if it is in this directory, and a link leads it out.
        """
        if path.absolute().is_relative_to(self.path.absolute()) and leads_out(path, self.path):
            raise LabError(f"checkpoint {path} is a link that leads out of {self.path}")

    def check_places(self) -> None:
        """Whether a run may be trained here: where it keeps its files are files, and no links that
        lead out of the directory; nor is anything else in it.

        Raises:
            LabError: naming the first that is something else.
        """
        for folder in (CHECKPOINTS, SNAPSHOTS, PROJECTOR):
            check_place(self.path / folder, self.path, is_folder=True)
        for name in FILES:
            check_place(self.path / name, self.path)
        # TensorBoard's reader takes whatever has this in its name.
        for path in [*self.path.glob("*tfevents*"), *(self.path / PROJECTOR).glob("*.tsv")]:
            check_place(path, self.path)
        # Loggers of others write where they like in it. (W&B links a log of its own to its cache,
        # in a folder that no later run writes into.)
        for folder, *names in os.walk(self.path):
            for path in (Path(folder, name) for name in itertools.chain(*names)):
                if path.is_symlink() and not path.match("wandb/*/logs/debug-core.log"):
                    check_stays_in(self.path, path)

    def checkpoint(self, which: str) -> Path:
        """The path of checkpoint `last` (`ema` is in it; the best, where that alone is kept),
        `best`, or any other given as a path.

        Raises:
            LabError: if there is none.
        """
        newest = self.checkpoints()
        if which in ("last", "ema"):
            path = newest[0] if newest else self.best
        else:
            path = self.best if which == "best" else path_typed(which, "checkpoint")
        if not path.is_file():
            there = ["last"] * bool(newest) + ["best"] * self.best.is_file()
            has = ", ".join(there) or "none yet (the first is written at the first evaluation)"
            raise LabError(f"checkpoint={which}: no such checkpoint; {self.path} has {has}")
        self.check_checkpoint(path)
        return path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this directory. A killed process lets go of it.

        Raises:
            LabError: if another process has it, or it cannot be written.
        """
        self.check_places()
        lock = lock_at(self.path / LOCK, self.path)
        try:
            lock.acquire(timeout=0.5)  # is_locked has it for a moment
        except filelock.Timeout:
            raise LabError(f"run={self.path} is being trained by another process") from None
        except OSError as error:
            raise LabError(
                f"run={self.path} cannot be trained: {LOCK} in it cannot be locked "
                f"({error.strerror or error})"
            ) from error
        for folder in (self.path, self.path / CHECKPOINTS, self.path / PROJECTOR):
            remove_unfinished(folder)
        try:
            yield
        finally:
            lock.release()

    def is_locked(self) -> bool:
        """Whether a process is training in this directory now. Leaves no trace."""
        return is_locked(self.path / LOCK, self.path)

    @property
    def status(self) -> str:
        """How it stands: done, failed, paused, pruned, interrupted, running, or killed.

        `killed` is a run whose record has `running` though no process trains in its directory.
        """
        status = self.unchecked_record.get("status")
        if status == "running" and not self.is_locked():
            status = self.unchecked_record.get("status")  # it may have ended in the meantime
            return "killed" if status == "running" else str(status)
        return str(status)


def _make(path: Path, exist_ok: bool) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        if path.is_dir():
            return False
        raise LabError(f"cannot keep a run at {path}: a file of that name is there") from None
    except OSError as error:
        raise LabError(f"cannot keep a run at {path}: {error.strerror}") from error
    return True
