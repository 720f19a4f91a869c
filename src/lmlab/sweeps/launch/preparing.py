"""What is asked of a sweep before its first job begins, and the folder that is made for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lmlab.config import schema
from lmlab.config.build import targets
from lmlab.config.check import PARTS, check, check_plain, plain_of
from lmlab.config.words.command_line import CommandLine
from lmlab.config.words.hydra_inside import hydra_config_lent
from lmlab.data.corpus import check_is_there
from lmlab.errors import LabError
from lmlab.files import make_folder, write_atomically
from lmlab.runs.directory import RECORD
from lmlab.runs.parents import config_of, resolve
from lmlab.sweeps.journal.journal import MULTIRUN
from lmlab.sweeps.launch.composing import PlainConfigs
from lmlab.sweeps.launch.job import run_of, values_among, varied_keys

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lmlab.sweeps.launch.composing import RememberingLoader
    from lmlab.sweeps.launch.pool import Pool

VOCABULARIES = (65, 256, 50_257)  # a model that is refused with each is refused with any


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


def check_jobs(
    config: DictConfig,
    loader: RememberingLoader,
    arguments: Sequence[str],
    jobs: Sequence[Sequence[str]],
    n_jobs: int | None = None,
    open_keys: Sequence[Collection[str]] = (),
    pool: Pool | None = None,
) -> None:
    """Whether all jobs of a sweep can be composed, and none has a value that is refused: what is
    wrong with the last is said before the first begins. `config` and `arguments` are the sweep's.

    `jobs` are all that there are, or examples of `n_jobs`. Then `open_keys` are those of each that
    have other values in other jobs: what is refused for one of them says nothing of the rest.
    Where there is a `pool` it begins as soon as the values are accepted, and checks what needs
    torch.

    Raises:
        LabError: naming the first job that is refused.
        HydraException: if a job cannot be composed.
    """
    run_dir, n_jobs = check_multirun(config).run_dir, n_jobs or len(jobs)
    if n_jobs > 1 and run_dir is not None and "${" not in str(run_dir):
        raise LabError(
            f"run_dir={run_dir}: {n_jobs} jobs cannot share one directory; leave it out, or name "
            f"one for each, such as run_dir={run_dir}/${{seed}}"
        )
    for job in _representatives(jobs, loader):
        _check_composes(config, loader, job)
    _Jobs(config, loader, arguments, jobs, open_keys).check(pool)


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
    jobs: Sequence[Sequence[str]], loader: RememberingLoader
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


def _check_composes(config: DictConfig, loader: RememberingLoader, job: Sequence[str]) -> None:
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


class _Jobs:
    """The jobs of a sweep, and what is said of those that are refused."""

    def __init__(
        self,
        config: DictConfig,
        loader: RememberingLoader,
        arguments: Sequence[str],
        jobs: Sequence[Sequence[str]],
        open_keys: Sequence[Collection[str]],
    ):
        self._config, self._loader, self._jobs = config, loader, jobs
        self._open_keys = open_keys
        self._sweep_dir = Path(config.hydra.sweep.dir)
        swept = CommandLine.parse(list(arguments), ()).swept
        self._varied = varied_keys(swept, config.hydra.sweeper)

    def check(self, pool: Pool | None) -> None:
        """First what takes a fraction of a millisecond a job, then what needs imports.

        Parts are not imported for jobs that have runs, which they were accepted for.

        Raises:
            LabError: naming the first job that is refused.
        """
        configs = PlainConfigs(self._config, self._loader)
        refused: list[int] = []
        new: dict[int, dict[str, Any]] = {}  # the configs of those that have no run
        for number, words in enumerate(self._jobs):
            try:
                job = configs.of(words)
                plain = job.plain
                if plain["from"] is not None:
                    with hydra_config_lent() as read_from:
                        plain = self._composed(words, read_from)
                checked = _values_checked(plain)
                run = run_of(
                    checked.plain(), self._sweep_dir, values_among(self._varied, job.overrides)
                )
            except LabError:
                refused.append(number)
                continue
            if not (run.path / RECORD).is_file():
                new[number] = plain
        self._refuse(refused)
        if self._open_keys and any(self._sweep_dir.glob(f"*/{RECORD}")):
            return  # a search that goes on, whose examples are none of its jobs
        self._refuse(_refused(new, _check_text, ["corpus"]))
        if not new:
            return
        if pool is None:
            self._refuse(_refused(new, _check_part, PARTS))
        else:
            pool.begin()
            self._refuse(pool.ask(_refused, new, _check_part, PARTS))

    def _refuse(self, numbers: Sequence[int]) -> None:
        """
        Raises:
            LabError: of the first of these jobs, if there is one.
        """
        for number in numbers:
            error = self._reason(number)
            open_keys = self._open_keys[number] if self._open_keys else ()
            if error is None or any(key in str(error) for key in open_keys):
                continue
            raise LabError(self._named(number, error, len(numbers))) from error

    def _named(self, number: int, error: LabError, n_refused: int) -> str:
        """What is said of a job, with the overrides that others do not have."""
        n_jobs = len(self._jobs)
        if n_jobs == 1:
            return str(error)
        if n_refused == n_jobs:
            return f"each of the {n_jobs} jobs is refused, the first: {error}"
        counts = Counter(word for words in self._jobs for word in words)
        own = " ".join(word for word in self._jobs[number] if counts[word] < n_jobs)
        if self._open_keys:
            return f"{error} (in a job such as {own}; none has begun)"
        more = f", and {n_refused - 1} more" if n_refused > 1 else ""
        return f"{error} (job {number + 1} of {n_jobs}: {own}{more}; none has begun)"

    def _reason(self, number: int) -> LabError | None:
        """What is said of a job that is refused; here it is known which file brought a key."""
        try:
            with hydra_config_lent() as read_from:
                plain = self._composed(self._jobs[number], read_from)
                _values_checked(plain)
                _check_text(plain)
                check_plain(plain, schema.Train)
                _check_part(plain, "model")
        except LabError as error:
            return error
        return None

    def _composed(
        self, words: Sequence[str], read_from: Callable[[DictConfig], None]
    ) -> dict[str, Any]:
        """A job's config; with `from` it is the parent's, changed. Hydra's node of it is lent."""
        cfg = self._loader.load_sweep_config(self._config, list(words))
        read_from(cfg)
        own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        whole = own if own["from"] is None else config_of(own, list(cfg.hydra.overrides.task))
        plain: dict[str, Any] = plain_of(whole)
        return plain


def _values_checked(plain: dict[str, Any]) -> schema.Train:
    return resolve(check_plain(plain, schema.Train, parts=()))


def _refused(
    configs: Mapping[int, dict[str, Any]],
    check: Callable[[dict[str, Any], str], object],
    groups: Sequence[str],
) -> list[int]:
    """Which configs have a node that `check` refuses; one that many have is checked once."""
    verdicts: dict[str, bool] = {}

    def accepts(plain: dict[str, Any], group: str) -> bool:
        key = json.dumps([group, plain.get(group), plain["data"]["block_size"]], default=repr)
        if key not in verdicts:
            try:
                check(plain, group)
                verdicts[key] = True
            except LabError:
                verdicts[key] = False
        return verdicts[key]

    return [n for n, plain in configs.items() if not all(accepts(plain, g) for g in groups)]


def _check_text(plain: dict[str, Any], _: str = "corpus") -> None:
    check_is_there(plain)


def _check_part(plain: dict[str, Any], group: str) -> None:
    """
    Raises:
        LabError: if a part is refused; a model of the lab's also if it cannot be made.
    """
    config = check_plain(plain, schema.Train, parts=(group,))
    is_ours = all(target.startswith("lmlab.") for _, target in targets(config.model, "model"))
    if group != "model" or not is_ours:
        return
    from lmlab.training.preflight import model_on_meta  # here, for it imports torch

    said = []
    for vocab_size in VOCABULARIES:  # what a text has is known once it is read
        try:
            model_on_meta(config, vocab_size)
        except LabError as error:
            said.append(error)
    # Where there is a cause it may be the meta device's.
    if len(said) == len(VOCABULARIES) and said[0].__cause__ is None:
        raise said[0]
