"""lmlab from Python: what the commands do, with their checks, directories and numbers."""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.config.stored import conf_dir
from lmlab.config.words import compose as composition
from lmlab.config.words.command_line import CommandLine
from lmlab.config.words.explain import explain, is_explained
from lmlab.config.words.hydra_inside import multirun, ours_alone
from lmlab.config.words.python_words import LITERALS, axis_of, checked_text, is_several, words_of
from lmlab.data.turns import own_turn
from lmlab.errors import LabError
from lmlab.training.processes.stopping import Interrupted
from lmlab.training.processes.waiting import waiting

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lmlab.handles import Run, Sweep


def train(*overrides: str, **values: Any) -> Run | None:
    """Train one run, as `scripts/train.py` does, and return it.

    Overrides are written as on the command line, `"model=head"` or `"optimizer.lr=1e-3"`; keyword
    arguments have Python's values, `seed=2`, or nested, `model={"n_layer": 2}`. `run=…` goes on
    with a run and `resume="auto"` with one that this same call began; `**{"from": …}` begins from
    another's checkpoint. With `dry_run=True` it says what it would do, and returns None.

    Raises:
        LabError: for what can be put right, in one line.
        KeyboardInterrupt: if it was interrupted; everything is on disk, and `run=…` goes on.
    """
    words = [*_checked(overrides), *words_of(values)]
    with own_turn(), _errors_in_one_line(words):
        with _composing():
            line = _line(words)
            if line.is_multirun or line.swept:
                which = ", ".join(sorted(line.swept)) or "sweep"
                raise LabError(f"{which}: several values make a sweep; call lmlab.sweep")
            # Here, for it imports pydantic.
            from lmlab.runs.parents import config_asked_for, words_for_hydra

            cfg = _current(composition.composed("train", words_for_hydra(line), with_hydra=True))
            config, chosen = config_asked_for(cfg, line.given), composition.chosen()
        if config.dry_run:
            from lmlab.core.plan import plan

            plan(config)
            return None
        from lmlab.core.train import train
        from lmlab.handles import Run

        trained = train(config, choices=chosen)
        return None if trained is None else Run(trained.path)


def sweep(*overrides: str, launcher: str | None = None, **values: Any) -> Sweep | None:
    """Train every combination of values, as `scripts/train.py -m` does, and return the sweep.

    A key has several values by a comma, `"seed=1,2"`, or as a list or a range of Python's,
    `seed=range(1, 4)`; `sweep="ladder"` is one of conf/sweep. The `launcher` is one of Hydra's,
    such as `"local"`. The same call goes on with what it began. A failed job does not
    end the others; None is returned where no job has a directory (`dry_run=True`).

    Raises:
        LabError: for what can be put right, in one line; if a job failed, once all are done.
        KeyboardInterrupt: if it was interrupted; the same call goes on.
    """
    axes = [axis_of(key, value) for key, value in values.items() if is_several(value)]
    single = {key: value for key, value in values.items() if not is_several(value)}
    if launcher is not None and (not isinstance(launcher, str) or not launcher):
        raise LabError(f"launcher={launcher!r}: the name of one of Hydra's launchers, as 'local'")
    at = words_of({} if launcher is None else {"hydra/launcher": launcher})
    # Several parents may be an axis, so `from` is within Hydra's grammar here.
    words = ["-m", *_checked(overrides), *axes, *words_of(single, literals=("run",)), *at]
    with own_turn(), _errors_in_one_line(words), _composing():
        line = _line(words)
        # -m is said by the call itself; a flag is none of Hydra's words.
        from lmlab.runs.parents import words_for_hydra

        words = [word for word in words_for_hydra(line) if word != "-m"]
        with multirun(conf_dir(), "train", words) as (cfg, run):
            folder = Path(cfg.hydra.sweep.dir)
            try:
                run(functools.partial(_train_job, swept=line.swept))
            finally:
                has_runs = any(folder.glob("*/run.json"))
    from lmlab.handles import Sweep

    return Sweep(folder) if has_runs else None


def open(path: str | Path) -> Run | Sweep:
    """The run or the sweep in a folder.

    Raises:
        LabError: if it is neither.
    """
    from lmlab.handles import Run, Sweep, folder_named

    folder = folder_named(path, "lmlab.open")
    if (folder / "config.yaml").is_file():
        return Run(folder)
    if any(folder.rglob("run.json")):
        return Sweep(folder)
    there = ", ".join(sorted(child.name for child in folder.iterdir())[:5]) or "nothing"
    raise LabError(f"{path}: neither a run nor a folder of runs; in it is {there}")


def _checked(overrides: tuple[str, ...]) -> list[str]:
    """What is not given by keyword."""
    for word in overrides:
        if not isinstance(word, str):
            raise LabError(
                f'{type(word).__name__} is no override: give texts, as in "seed=2", or keywords, '
                "as in seed=2"
            )
        checked_text(word, "override")
    return list(overrides)


def _line(words: list[str]) -> CommandLine:
    waiting.look()
    line = CommandLine.parse(words, LITERALS)
    if flags := [flag for flag in line.flags if flag not in ("-m", "--multirun")]:
        raise LabError(f"{flags[0]}: flags are of the command line")
    line.check("train")
    return line


def _train_job(cfg: DictConfig, swept: set[str]) -> Any:
    """What a launcher calls, maybe in another process."""
    from lmlab.sweeps.launch.job import train_job

    try:
        return train_job(cfg, swept)
    except Interrupted as stopped:
        raise SystemExit(128 + stopped.signum) from None


def _current(cfg: DictConfig) -> DictConfig:
    """Make a composed config the one that `${hydra:…}` is read from; its part for the task."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    HydraConfig.instance().set_config(cfg)
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


@contextmanager
def _composing() -> Iterator[None]:
    """Hydra for this call, and what goes wrong in it in one line."""
    try:
        with ours_alone():
            yield
    except RecursionError as error:
        raise LabError("the overrides are nested too deep") from error
    except OSError as error:  # a disk that is full
        if is_explained(error):  # an option that does not exist, or whose name is too long
            raise
        where = f"{str(error.filename)[:100]}: " if error.filename else ""
        raise LabError(f"{where}{error.strerror or error}") from error


@contextmanager
def _errors_in_one_line(words: list[str]) -> Iterator[None]:
    """Errors as a notebook's user is to see them; a run that was asked to stop is interrupted."""
    try:
        yield
    except Interrupted as stopped:
        if stopped.signum != signal.SIGINT:
            signal.raise_signal(stopped.signum)  # all is kept; now what it does to any process
        raise KeyboardInterrupt(f"{stopped}; everything is kept") from None
    except SystemExit as left:  # a job of a sweep was
        raise KeyboardInterrupt(f"the sweep was stopped ({left.code}); the same goes on") from None
    except LabError:
        raise
    except Exception as error:
        if is_explained(error):
            with _composing():  # it looks for what is near by Hydra
                explained = explain(error, "train", words)
            raise LabError(explained) from error
        raise
