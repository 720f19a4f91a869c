"""What is asked of a sweep before its first job begins, and the folder that is made for it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lmlab.config import schema
from lmlab.config.check import check, check_plain, plain_of
from lmlab.config.words.hydra_inside import hydra_config_lent
from lmlab.errors import LabError
from lmlab.files import make_folder, write_atomically
from lmlab.sweeps.journal.journal import MULTIRUN

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

    from lmlab.sweeps.launch.pool import Pool


class Multirun(schema.Node):
    """What a sweep is kept by, before any of its jobs is checked."""

    output_dir: schema.Text
    run_dir: schema.Text | None
    sweep: schema.Sweep


def check_multirun(config: DictConfig) -> Multirun:
    """What a sweep is kept by.

    Raises:
        LabError: for what makes no sense.
    """
    run_dir = OmegaConf.to_container(config, resolve=False)["run_dir"]  # type: ignore[index, call-overload]
    return check(OmegaConf.masked_copy(config, ["output_dir", "sweep"]), Multirun, run_dir=run_dir)


def prepare(
    config: DictConfig,
    loader: ConfigLoader,
    n_jobs: int,
    jobs: Sequence[Sequence[str]],
    searched: Collection[str] = (),
    pool: Pool | None = None,
) -> Path:
    """Make the folder of a sweep, once `check_jobs` has no objection.

    Raises:
        LabError, HydraException: see there.
    """
    check_jobs(config, loader, n_jobs, jobs, searched, pool)
    return make_sweep(config)


def check_jobs(
    config: DictConfig,
    loader: ConfigLoader,
    n_jobs: int,
    jobs: Sequence[Sequence[str]],
    searched: Collection[str] = (),
    pool: Pool | None = None,
) -> None:
    """Whether all of `jobs`, which are examples of a sweep's `n_jobs` or all there are, can be
    composed, and one of them can begin.

    A job that is refused for a key that is `searched` says nothing of other values. Where there is
    a `pool` it begins as soon as a config can be read, and checks what needs torch.

    Raises:
        LabError: if the sweep makes no sense, with what is said of the first job.
        HydraException: if a job cannot be composed.
    """
    run_dir = check_multirun(config).run_dir
    if n_jobs > 1 and run_dir is not None and "${" not in str(run_dir):
        raise LabError(
            f"run_dir={run_dir}: {n_jobs} jobs cannot share one directory; leave it out, or name "
            f"one for each, such as run_dir={run_dir}/${{seed}}"
        )
    for job in _representatives(jobs, loader):
        _check_composes(config, loader, job)
    _check_some(config, loader, jobs, searched, pool)


def make_sweep(config: DictConfig) -> Path:
    """Make the folder of a sweep.

    Raises:
        LabError: if it cannot be written.
    """
    folder = Path(config.hydra.sweep.dir)
    make_folder(folder)
    write_atomically(folder / MULTIRUN, OmegaConf.to_yaml(config).encode())
    return folder


def _representatives(
    jobs: Sequence[Sequence[str]], loader: ConfigLoader
) -> Iterator[Sequence[str]]:
    """Jobs that have every key and every option of a group: if they compose, all do.

    Composing takes a tenth of a second, and the value of a key makes no difference to it.
    """
    groups = {*loader.list_groups(""), *(f"hydra/{name}" for name in loader.list_groups("hydra"))}
    seen: set[str] = set()
    for job in jobs:
        parts = {w if w.partition("=")[0] in groups else w.partition("=")[0] for w in job}
        if parts - seen:
            yield job
            seen |= parts


def _check_composes(config: DictConfig, loader: ConfigLoader, job: Sequence[str]) -> None:
    """
    Raises:
        LabError: if a job asks for a launcher or a sweeper: there is one of each for all of them.
        HydraException: if it cannot be composed.
    """
    composed = loader.load_sweep_config(config, list(job))
    for part in ("launcher", "sweeper"):
        wanted, there = (
            OmegaConf.to_container(one.hydra[part], resolve=False) for one in (composed, config)
        )
        if wanted != there:
            # The words that bring whole files of keys; all of them where there are none.
            words = [w for w in job if w.startswith(("hydra", "experiment=", "sweep="))] or job
            raise LabError(
                f"{' '.join(words)}: sets hydra/{part} or its keys, of which a sweep has one for "
                f"all of its jobs; give hydra/{part}=… to the sweep, and take it out of what is "
                "swept"
            )


def _check_some(
    config: DictConfig,
    loader: ConfigLoader,
    jobs: Sequence[Sequence[str]],
    searched: Collection[str],
    pool: Pool | None,
) -> None:
    """Parts are not imported for a sweep that has runs: its jobs do so, if any is left to train.

    Raises:
        LabError: if each job is refused, with what is said of the first.
    """
    reasons = []
    has_runs = any(Path(config.hydra.sweep.dir).glob("*/run.json"))
    with hydra_config_lent() as read_from:
        for job in jobs:
            cfg = loader.load_sweep_config(config, list(job))
            read_from(cfg)
            if cfg["from"] is not None:  # what it is to be stands in its parent
                return
            own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
            try:
                plain = plain_of(own)
                check_plain(plain, schema.Train, parts=())
                if not has_runs:
                    _check_parts(plain, pool)
                return
            except LabError as error:
                if any(key in str(error) for key in searched):
                    return
                reasons.append(error)
    if reasons:
        n = f"each of the {len(reasons)} jobs is refused, the first: " * (len(reasons) > 1)
        raise LabError(f"{n}{reasons[0]}")


def _check_parts(plain: dict[str, Any], pool: Pool | None) -> None:
    """
    Raises:
        LabError: if the parts of a config are refused.
    """
    if pool is not None:
        pool.begin()
        if not pool.ask(_is_refused, plain):
            return
    check_plain(plain, schema.Train)  # here it is known which file brought a key


def _is_refused(plain: dict[str, Any]) -> bool:
    try:
        check_plain(plain, schema.Train)
    except LabError:
        return True
    return False
