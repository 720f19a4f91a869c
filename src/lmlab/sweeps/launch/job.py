"""One job of a sweep: it finds itself done, half done or new. A failure is a result, not an error.

Being resumable is a property of the run, so it holds for every launcher and every sweeper.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from lmlab.config import schema
from lmlab.config.check import check_plain, plain_of
from lmlab.config.fingerprint import fingerprint
from lmlab.config.own_code import check_same_code, code_of
from lmlab.config.words.compose import chosen
from lmlab.console import log, logged_to, say, shown_on
from lmlab.errors import DivergedError, LabError
from lmlab.files import check_stays_in, lock_at, make_folder, path_name
from lmlab.runs.directory import CONFIG, LOG, RunDirectory
from lmlab.runs.parents import config_of, resolve
from lmlab.sweeps.journal.journal import JOB_LOCK, Entry, Result, in_tables
from lmlab.sweeps.launch.slurm.cluster import put_back_when_asked
from lmlab.sweeps.table.reading import SEED
from lmlab.sweeps.table.values import canonical, short_keys
from lmlab.training.processes.started import check_started_once

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

OURS = "hydra_plugins.lmlab_"  # sweepers that know of sweep.race


def train_job(cfg: DictConfig, swept: set[str]) -> Result:
    """Train one job of a multirun: what Hydra has composed, which varies the keys `swept`.

    Raises:
        LabError: if the sweep asks for a race, and its sweeper knows of none.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    if cfg.sweep.race.first is not None and not hydra.sweeper["_target_"].startswith(OURS):
        chosen_sweeper = f"hydra/sweeper={hydra.runtime.choices['hydra/sweeper']}"
        raise LabError(
            f"sweep.race: {chosen_sweeper} gives each setting all of its seeds; leave it out"
        )
    overrides = list(hydra.overrides.task)
    values = varied_values(overrides, swept, hydra.sweeper)
    with put_back_when_asked():
        return run_job(cfg, Path(hydra.sweep.dir), values, overrides, chosen())


def varied_values(overrides: list[str], swept: set[str], sweeper: Any) -> dict[str, Any]:
    """What a job's overrides give to the keys that its sweep varies: those `swept` on the command
    line, and those of `sweeper`, which is hydra.sweeper."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(overrides)
    return values_among(varied_keys(swept, sweeper), parsed)


def varied_keys(swept: set[str], sweeper: Any) -> set[str]:
    """The keys that a sweep varies; see `varied_values`."""
    from lmlab.config.words.axes import swept_keys

    return swept | {key.lstrip("+~") for key in swept_keys(sweeper)}


def values_among(keys: set[str], overrides: Iterable[Override]) -> dict[str, Any]:
    """What a job's overrides give to some keys."""
    from lmlab.config.words.grammar import key_of, settings

    return {
        key: _plain_value(value)
        for override in overrides
        for key, value in settings(key_of(override), override.value()).items()
        if key in keys
    }


def _plain_value(value: Any) -> Any:
    """A value of Hydra's grammar as JSON has it."""
    if isinstance(value, dict):
        return {str(key): _plain_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain_value(inner) for inner in value]
    return value if isinstance(value, bool | int | float | None) else str(value)


def job_name(swept: dict[str, Any], config_fingerprint: str) -> str:
    """A directory's name for one job of a sweep: what is swept, and what makes it unique."""
    short = short_keys(swept)
    ordered = sorted(swept, key=lambda key: (key == "seed", key))
    # Four digits of a number are enough to know it by; the fingerprint has them all.
    values = [(short[key], swept[key]) for key in ordered]
    text = ",".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in values
    )
    return f"{path_name(text) or 'job'}-{config_fingerprint[:8]}"


def run_job(
    cfg: DictConfig,
    sweep_dir: Path,
    swept: dict[str, Any],
    overrides: list[str],
    choices: dict[str, str],
) -> Result:
    """Train one job of a sweep, in the directory that follows from its config.

    `swept` are the keys that the sweep varies, with this job's values; `overrides` and `choices`
    are what Hydra composed its config of.

    Raises:
        LabError: if the sweep itself was started as several processes.
    """
    check_started_once(cfg.get("trainer") or {})
    entry = Entry.of(sweep_dir, cfg.sweep.job) if cfg.sweep.job else None
    # Who launched prints for all.
    is_quiet = entry is not None and (not entry.journal.is_ours or entry.journal.path in in_tables)
    with shown_on(Console(quiet=True) if is_quiet else None):
        if entry is not None and cfg.sweep.fail_fast and entry.journal.has_failed():
            return _ended(entry, Result(None, None, "skipped"))
        whole, config = cfg, None
        problem: LabError | None = None  # a failure of this job, once it has begun
        try:
            if cfg["from"] is not None:
                whole = config_of(cfg, overrides)
            config = _checked(whole, sweep_dir, swept)
        except LabError as error:
            problem = error
        plain = _plain(whole) if config is None else config.plain()
        run = run_of(plain, sweep_dir, swept)
        setting = setting_of(swept)
        if entry is not None:
            entry.add("running", run=str(run.path))
        try:
            if problem is not None:
                raise problem
            assert config is not None
            config = config.model_copy(update={"run_dir": str(run.path), "resume": "auto"})
            plain = config.plain()
            if config.dry_run:
                from lmlab.core.plan import plan

                plan(config)
                return _ended(entry, Result(None, None, "planned"))
            trained = not is_finished(run, config) and _train(
                run, config, swept=swept, choices=choices
            )
        # SystemExit too: a library's exit is a failure of its job, not the end of the others.
        except (Exception, SystemExit) as error:
            reason = str(error)
            if not isinstance(error, LabError):  # its notes say in which part it was raised
                notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
                reason = f"{type(error).__name__}: {error}{notes}"
            _keep_failure(run, plain, swept, error, reason)
            if entry is None:  # a sweeper that is not ours, and prints no failures
                say(f"failed  {run.path.name}  {reason}  (log: {run.path / LOG})")
            result = Result(None, str(run.path), "failed", reason, isinstance(error, DivergedError))
            return _ended(entry, result, setting, trained=True)
        record = run.record
        loss = record["metrics"].get("val/loss_full")
        return _ended(entry, Result(loss, str(run.path), record["status"]), setting, trained)


def planned(
    cfg: DictConfig, sweep_dir: Path, swept: dict[str, Any], overrides: list[str]
) -> tuple[RunDirectory, schema.Train]:
    """Where a job is kept, or is going to be, and its checked config; see `run_job`.

    Raises:
        LabError: if the config is refused.
    """
    whole = cfg if cfg["from"] is None else config_of(cfg, overrides)
    config = _checked(whole, sweep_dir, swept)
    return run_of(config.plain(), sweep_dir, swept), config


def _checked(cfg: DictConfig, sweep_dir: Path, swept: dict[str, Any]) -> schema.Train:
    """A job's config, checked; its parts too, unless it has a run, which they were accepted for."""
    config = resolve(check_plain(plain_of(cfg), schema.Train, parts=()))
    if _is_kept(run_of(config.plain(), sweep_dir, swept), config):
        return config
    return check_plain(config.plain(), schema.Train)


def _ended(
    entry: Entry | None, result: Result, setting: str | None = None, trained: bool = False
) -> Result:
    if entry is not None:
        entry.add(
            result.status,
            run=result.run,
            loss=None if math.isnan(result) else float(result),
            trained=trained,
            error=result.error,
            setting=setting,
            diverged=result.diverged,
        )
    return result


def setting_of(swept: dict[str, Any]) -> str:
    """What jobs share that differ in nothing but the seed."""
    return canonical({key: value for key, value in swept.items() if key != SEED})


def sha256_of(config: schema.Train) -> str:
    """Of the corpus that a config names."""
    from lmlab.data.tokens import text_of

    return text_of(config).sha256


def is_finished(
    run: RunDirectory, config: schema.Train, sha256_of: Callable[[schema.Train], str] = sha256_of
) -> bool:
    """Whether there is nothing left to train. Found without torch, which takes seconds to import.

    Raises:
        LabError: if it is another run, or was trained on another text, or with other code.
    """
    record, pause_at = run.record, config.pause_at
    is_paused = record.get("status") == "paused" and pause_at and record["step"] >= pause_at
    if record.get("status") not in ("done", "pruned") and not is_paused:
        return False
    plain = config.plain()
    if fingerprint(run.config) != fingerprint(plain):
        raise LabError(
            f"run_dir={run.path} holds another run: each job needs a directory of its own"
        )
    check_same_code(record, plain, f"{run.path} is {record['status']}")
    if record.get("corpus_sha256") not in (None, sha256_of(config)):
        raise LabError(
            f"{run.path} is {record['status']}, but its corpus has changed since: "
            "name another sweep"
        )
    return True


def run_of(config: dict[str, Any], sweep_dir: Path, swept: dict[str, Any]) -> RunDirectory:
    """Where a job is kept: another one if its fingerprint differs, or the code of its own classes.

    Raises:
        LabError: if a link leads it out of the sweep's folder.
    """
    if config.get("run_dir"):
        return RunDirectory(Path(config["run_dir"]))
    identity, code = fingerprint(config), code_of(config)
    if code:
        identity = hashlib.sha256(f"{identity}:{sorted(code.items())}".encode()).hexdigest()
    path = sweep_dir / job_name(swept, identity)
    check_stays_in(sweep_dir, path)
    return RunDirectory(path)


def _is_kept(run: RunDirectory, config: schema.Train) -> bool:
    """Whether a run of this very config has ended: then its parts were accepted as it began, and
    need not be imported again."""
    has_ended = run.record.get("status") in ("done", "paused", "pruned")
    return has_ended and fingerprint(run.config) == fingerprint(config.plain())


def _train(run: RunDirectory, config: schema.Train, **asked: Any) -> bool:
    """Train what is left of a run, once no other process does; whether there was any."""
    with _alone(run.path):
        if is_finished(run, config):
            return False
        from lmlab.core.train import train
        from lmlab.training.processes.stopping import Pruned

        with suppress(Pruned):  # the record says so
            train(config, **asked)
        return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for another sweep's job, or one that outlived the process that launched it."""
    make_folder(folder)
    lock = lock_at(folder / JOB_LOCK, folder)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        say(f"waiting for the process that trains {folder}")
        lock.acquire(poll_interval=0.5)
    try:
        yield
    finally:
        lock.release()


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """A config that is refused, for the name of its job: checked but for its parts, or as it is."""
    with suppress(LabError):
        return check_plain(plain_of(cfg), schema.Train, parts=()).plain()
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException:
        plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _keep_failure(
    run: RunDirectory,
    plain: dict[str, Any],
    swept: dict[str, Any],
    error: BaseException,
    reason: str,
) -> None:
    """Leave a failure in the record and in the log; nothing that is done is touched."""
    from lmlab.display.for_tensorboard.event_files import show_refused

    with suppress(LabError, OSError):  # the disk may be what failed
        status = run.record.get("status")
        if status == "done" or run.is_locked():
            return
        if (run.path / CONFIG).is_file() and fingerprint(run.config) != fingerprint(plain):
            return  # another run is there
        run.path.mkdir(parents=True, exist_ok=True)
        if status is None:  # it failed before there was a run
            run.begin(plain, swept)
        run.update(status="failed", error=reason, diverged=isinstance(error, DivergedError))
        show_refused(run.path, plain, reason, run.record["started"])
        if status is None or isinstance(error, LabError):
            with logged_to(run.path / LOG):
                log.error("failed", exc_info=error)
