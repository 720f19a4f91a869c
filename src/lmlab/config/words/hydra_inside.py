"""What the lab uses of Hydra's inside: all of it is here, as
tests/config/words/test_hydra_inside.py says.

Hydra promises to keep none of this. Each function says why it is wanted, and what differs between
Hydra 1.3 and 1.4, which the lab runs on alike.
"""

from __future__ import annotations

import copy
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override, RangeSweep
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig


def is_1_4() -> bool:
    """Whether it is Hydra 1.4, or what comes after it."""
    from hydra import __version__

    major, minor = __version__.split(".")[:2]
    return (int(major), int(minor)) >= (1, 4)


def version_base() -> dict[str, str]:
    """The argument that has Hydra 1.3 behave as such; 1.4 does without, and warns of it."""
    return {} if is_1_4() else {"version_base": "1.3"}


def args_parser() -> ArgumentParser:
    """The parser of Hydra's own flags: they stand in any order among our words."""
    from hydra._internal.utils import get_args_parser

    parser: ArgumentParser = get_args_parser()
    return parser


@contextmanager
def ours_alone() -> Iterator[None]:
    """Hydra is one for a process: an application of another's, which calls us, has it back.

    Hydra can clear what it holds, but not give it back.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import JobRuntime
    from hydra.version import VersionBase

    global_hydra = GlobalHydra.instance()
    hydra, config = global_hydra.hydra, HydraConfig.instance().cfg
    job, base = copy.deepcopy(JobRuntime.instance().conf), VersionBase.instance().version_base
    global_hydra.clear()
    try:
        yield
    finally:  # Hydra may have made another of each
        GlobalHydra.set_instance(global_hydra)
        global_hydra.hydra, HydraConfig.instance().cfg = hydra, config
        JobRuntime.instance().conf = job
        VersionBase.instance().version_base = base


def run_command(
    folder: Path, name: str, words: list[str], is_multirun: bool, task: Callable[[DictConfig], Any]
) -> None:
    """Run the command `name` as hydra.main does.

    That composes the config once more, to learn from it whether it is many runs: a tenth of a
    second, where it is known already.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    mode = "hydra.mode=MULTIRUN"
    words = [*words, mode] if is_multirun and mode not in words else words
    with initialize_config_dir(str(folder), job_name=name, **version_base()):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        begin = hydra.multirun if is_multirun else hydra.run
        begin(name, task, words)


@contextmanager
def multirun(
    folder: Path, name: str, words: list[str]
) -> Iterator[tuple[DictConfig, Callable[[Callable[[DictConfig], Any]], Any]]]:
    """The config of a sweep by the command `name`, and a function that runs it with a task.

    Hydra sweeps from the command line only, and that sets up logging and ends the process.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    with initialize_config_dir(str(folder), job_name="lmlab", **version_base()):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None

        def run(task: Callable[[DictConfig], Any]) -> Any:
            return hydra.multirun(name, task, words, with_log_configuration=False)

        yield hydra.compose_config(name, words, RunMode.MULTIRUN), run


def set_values(config: DictConfig, values: Sequence[Override], of_task: Sequence[Override]) -> None:
    """Set values in a composed config, refused in Hydra's own words; `of_task` are all overrides
    of a job but Hydra's own.

    What compose() does after it has read the files, which would take it a tenth of a second again.
    """
    from hydra._internal import config_loader_impl as inside

    inside.ConfigLoaderImpl._apply_overrides_to_config(list(values), config)
    if not is_1_4():  # an interpolation there
        about = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = inside.get_overrides_dirname(
            list(of_task), about.exclude_keys, about.item_sep, about.kv_sep
        )


@contextmanager
def hydra_config_lent() -> Iterator[Callable[[DictConfig], None]]:
    """A function that has `${hydra:…}` read from a config, until what it was read from is back.

    Hydra takes a config, but no word that there is none, as before the first job of a sweep.
    """
    from hydra.core.hydra_config import HydraConfig

    holder = HydraConfig.instance()
    before = holder.cfg
    try:
        yield holder.set_config
    finally:
        holder.cfg = before


def raised_by(job_return: JobReturn) -> BaseException | None:
    """What a job raised, if it did. Hydra's public way raises it, and writes to standard error."""
    value = job_return._return_value
    return value if isinstance(value, BaseException) else None


def casts(sweep: RangeSweep) -> tuple[Callable[[Any], Any], ...]:
    """What is done to each number of a range; 1.3 has done it to the range's ends already."""
    return tuple(getattr(sweep, "transformers", ()))


def sorts_ranges() -> bool:
    """Whether a sorted range has the numbers of the unsorted one: not before 1.4, where its step
    does not come to its end."""
    return is_1_4()
