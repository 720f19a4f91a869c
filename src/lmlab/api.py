"""lmlab from Python: what the commands do, with their checks, directories and numbers."""

from __future__ import annotations

import functools
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.config import compose as composition
from lmlab.config.command_line import CommandLine, one_line
from lmlab.config.explain import explain, is_explained
from lmlab.config.stored import conf_dir
from lmlab.errors import LabError
from lmlab.runs.parents import asked, words_for_hydra
from lmlab.training.stopping import Interrupted
from lmlab.training.waiting import waiting

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lmlab.handles import Run, Sweep

_hydra = threading.RLock()
NOT_TEXTS = ("null", "true", "false", "nan", "inf")  # to Hydra, without quotes
TEXTS = ("run", "from")  # keys whose value is taken as it is


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
    words = [*overrides, *_words(values)]
    with _errors_in_one_line(words):
        with _composing():
            line = _line(words)
            if line.is_multirun or line.swept:
                which = ", ".join(sorted(line.swept)) or "sweep"
                raise LabError(f"{which}: several values make a sweep; call lmlab.sweep")
            cfg = _current(composition.composed("train", words_for_hydra(line), with_hydra=True))
            config, chosen = asked(cfg, line.given), composition.chosen()
        if config["dry_run"]:
            from lmlab.plan import plan

            plan(config)
            return None
        from lmlab.core import train
        from lmlab.handles import Run

        trained = train(config, choices=chosen)
        return None if trained is None else Run(trained.path)


def sweep(*overrides: str, launcher: str | None = None, **values: Any) -> Sweep | None:
    """Train every combination of values, as `scripts/train.py -m` does, and return the sweep.

    A key has several values by a comma, `"seed=1,2"`, or as a list or a range of Python's,
    `seed=range(1, 4)`; `sweep="ladder"` is one of conf/sweep. The `launcher` is one of Hydra's,
    such as `"joblib"` or `"together"`. The same call goes on with what it began. A failed job does
    not end the others; None is returned where no job has a directory (`dry_run=True`).

    Raises:
        LabError: for what can be put right, in one line; if a job failed, once all are done.
        KeyboardInterrupt: if it was interrupted; the same call goes on.
    """
    several = {k: v for k, v in values.items() if _is_axis(v)}
    single = {k: v for k, v in values.items() if k not in several}
    axes = [f"{key}={','.join(map(_text, value))}" for key, value in several.items()]
    at = [] if launcher is None else [f"hydra/launcher={launcher}"]
    words = ["-m", *overrides, *axes, *_words(single), *at]
    with _errors_in_one_line(words), _composing():
        from hydra._internal.hydra import Hydra
        from hydra._internal.utils import create_config_search_path

        line = _line(words)
        hydra = Hydra.create_main_hydra2("lmlab", create_config_search_path(str(conf_dir())))
        # -m is said by the call itself; a flag is none of Hydra's words.
        words = [word for word in words_for_hydra(line) if word != "-m"]
        cfg = hydra.compose_config("train", words, _mode(), with_log_configuration=False)
        folder = Path(cfg.hydra.sweep.dir)
        try:
            hydra.multirun("train", _job(line.swept), words, with_log_configuration=False)
        finally:
            found = any(folder.glob("*/run.json"))
    from lmlab.handles import Sweep

    return Sweep(folder) if found else None


def open(path: str | Path) -> Run | Sweep:
    """The run or the sweep in a folder.

    Raises:
        LabError: if it is neither.
    """
    from lmlab.handles import Run, Sweep

    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise LabError(f"{path}: no such folder; runs are kept in outputs/<name>/<time>")
    if (folder / "config.yaml").is_file():
        return Run(folder)
    if any(folder.rglob("run.json")):
        return Sweep(folder)
    there = ", ".join(sorted(child.name for child in folder.iterdir())[:5]) or "nothing"
    raise LabError(f"{path}: neither a run nor a folder of runs; in it is {there}")


def _line(words: list[str]) -> CommandLine:
    waiting.look()
    line = CommandLine.parse(words, TEXTS)
    if flags := [flag for flag in line.flags if flag not in ("-m", "--multirun")]:
        raise LabError(f"{flags[0]}: flags are of the command line")
    line.check("train")
    return line


def _mode() -> Any:
    from hydra.types import RunMode

    return RunMode.MULTIRUN


def _job(swept: set[str]) -> Any:
    return functools.partial(_train_job, swept=swept)


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
    """Hydra is one for the process: it is used by one at a time, and is afterwards as it was."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    with _hydra:
        global_hydra, hydra_config = GlobalHydra.instance(), HydraConfig.instance()
        before = global_hydra.hydra, hydra_config.cfg
        global_hydra.clear()
        try:
            yield
        finally:
            global_hydra.hydra, hydra_config.cfg = before


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
            raise LabError(one_line(explain(error, "train", words))) from error
        raise


def _words(values: Mapping[str, Any], above: str = "") -> list[str]:
    """Python's values as overrides; dicts are nested keys."""
    words = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            words += _words(value, f"{above}{key}.")
        elif not above and key in TEXTS:
            words.append(f"{key}={value}")
        else:
            words.append(f"{above}{key}={_text(value)}")
    return words


def _is_axis(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _text(value: Any) -> str:
    """A value in Hydra's grammar, which reads it as it is."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(inner)}" for key, inner in value.items()) + "}"
    if _is_axis(value):
        return "[" + ",".join(map(_text, value)) + "]"
    from hydra.core.override_parser.types import Quote, QuotedString

    text = str(value)
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_/]*", text) and text.lower() not in NOT_TEXTS:
        return text  # the names of options have no quotes
    return QuotedString(text, Quote.single).with_quotes()
