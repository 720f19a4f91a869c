"""`from=<run>[@<step>|@best]`: which checkpoint of which run a new run begins from, and its config.

The new run's config is the parent's, changed by the overrides on the command line. Where `from`
names weights that others wrote, it is today's config with the sizes of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.config.fingerprint import fingerprint
from lmlab.config.schema import Parent, Train
from lmlab.config.trust import as_texts, check_stored, without
from lmlab.errors import LabError
from lmlab.exchange.foreign import Foreign, find_foreign
from lmlab.files import path_typed
from lmlab.runs.directory import CONFIG, RECORD, RunDirectory

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lmlab.config.words.command_line import CommandLine

AT_SNAPSHOTS = "@snapshots"


def config_asked_for(cfg: DictConfig, given: dict[str, str]) -> Train:
    """The checked config of one run, as `resolve` has it: what Hydra has composed, which is its
    current job, with the keys that are taken literally.

    With `run` it is the config that is stored there, and with `from` the parent's, each changed by
    the overrides.

    Raises:
        LabError: for what the user can put right.
    """
    from hydra.core.hydra_config import HydraConfig

    from lmlab.config.check import check

    if "run" in given:
        cfg = _continued(given["run"])
    elif "from" in given:
        given = dict(given)
        cfg["from"] = given.pop("from")
        cfg = config_of(cfg, HydraConfig.get().overrides.task)
    return resolve(check(cfg, Train, **given))


def _continued(path: str) -> DictConfig:
    """The config stored in a run, changed by the overrides on the command line."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import DictConfig, OmegaConf

    stored = RunDirectory.open(path).config
    cfg = OmegaConf.create(as_texts(stored))
    overrides = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    for override in overrides:
        key, value = override.key_or_group, override.value()
        turned_off = key.startswith("logger.") and (value is None or value is False)
        is_group = isinstance(OmegaConf.select(cfg, key), DictConfig) and not turned_off
        if is_group or key == "experiment":
            raise LabError(f"{key}={value}: a run is continued with its own {key}")
        OmegaConf.update(cfg, key, value)
    check_stored(without(stored, [o.key_or_group for o in overrides]), f"run={path}")
    return cfg


def run_of(parent: str, key: str = "from") -> RunDirectory:
    """The run that `key` names.

    Raises:
        LabError: if there is none.
    """
    return RunDirectory.open(_split(parent)[0], key)


def words_for_hydra(line: CommandLine) -> list[str]:
    """What Hydra is to read of a command line; of a run that begins from another's checkpoint also
    the options of its parent. Keys of a stored corpus, which may be anybody's, it does not know.

    Raises:
        LabError: if there is no such parent.
    """
    options = [] if line.parent is None else choices(line.parent, line.overrides)
    words = line.for_hydra
    if "run" in line.given:
        words = [f"++{word}" if word.startswith("corpus.") else word for word in words]
    return [*words, *options]


def choices(parent: str, typed: Iterable[str]) -> list[str]:
    """The options that the parent's config was composed of, of each group that is not `typed`.

    With them Hydra knows the keys that the parent has. Somebody else's record may not tell Hydra
    more than that.
    """
    if (foreign := find_foreign(parent)) is not None:
        options = {"model": "gpt2", "tokenizer": foreign.tokenizer().kind}
    else:
        options = run_of(parent).choices
    groups = {override.partition("=")[0] for override in typed}
    return [f"{group}={option}" for group, option in options.items() if group not in groups]


def config_of(cfg: DictConfig, overrides: Iterable[str]) -> DictConfig:
    """The config of a run that begins from another's checkpoint: the parent's, with `overrides`.

    `cfg` is what Hydra composed of them. A group of which another option is chosen is taken whole.

    Raises:
        LabError: for what would put another config in place of the parent's.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf, open_dict

    if (foreign := find_foreign(cfg["from"])) is not None:
        return _of_foreign(cfg, foreign, overrides)
    run = run_of(cfg["from"])
    stored, kept = run.config, run.choices
    branch: Any = OmegaConf.create(as_texts(stored))
    replaced = []
    with open_dict(branch):
        branch.run_dir = None
        if not _is_in(run.path, stored["output_dir"]):  # of another machine, or a stranger's
            branch.output_dir = cfg["output_dir"]
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            key, value = override.key_or_group, override.value()
            if key in ("experiment", "sweep"):
                raise LabError(f"{key}={value}: with from=… the config is the parent's")
            word = str(override.input_line).partition("=")[2]
            if key.startswith("hydra") or (key in kept and kept[key] in (value, word)):
                continue
            replaced.append(key)
            if override.is_delete():
                node, _, last = key.rpartition(".")
                OmegaConf.select(branch, node).pop(last, None)
            else:
                value = OmegaConf.select(cfg, key)
                OmegaConf.update(branch, key, value, merge=False, force_add=True)
        for key in ("from", "resume", "dry_run", "sweep"):
            branch[key] = cfg[key]
    check_stored(without(stored, replaced), f"from={run.path}")
    return branch


def _is_in(path: Path, folder: Any) -> bool:
    return isinstance(folder, str) and path.resolve().is_relative_to(Path(folder).resolve())


def _of_foreign(cfg: DictConfig, foreign: Foreign, overrides: Iterable[str]) -> DictConfig:
    """What was asked for, with the sizes of foreign weights, but for those that were typed."""
    from omegaconf import OmegaConf, open_dict

    if cfg.model.get("_target_") != foreign.TARGET:
        raise LabError(f"from={foreign.path} are GPT-2's weights: leave out model=…")
    typed = {override.lstrip("+~").partition("=")[0] for override in overrides}
    sizes = {f"model.{key}": value for key, value in foreign.model.items()}
    sizes["data.block_size"] = foreign.block_size
    with open_dict(cfg):
        for key, value in sizes.items():
            if key not in typed:
                OmegaConf.update(cfg, key, value)
            elif key.startswith("model."):
                wanted = OmegaConf.select(cfg, key)
                reads_out_alone = key == "model.tied" and wanted is False
                if wanted != value and not reads_out_alone:
                    raise LabError(f"{key}={wanted}: from={foreign.path} has {value}; leave it out")
    if cfg.data.block_size > foreign.block_size:
        raise LabError(
            f"data.block_size={cfg.data.block_size}: from={foreign.path} knows "
            f"{foreign.block_size} positions"
        )
    return cfg


def resolve(config: Train) -> Train:
    """The config with `from` and each of `teacher.runs` as run, step and fingerprint, if they were
    typed.

    Raises:
        LabError: if there is no such checkpoint, or it leaves no step to take.
    """
    config = _with_teachers(config)
    typed = config.parent
    if not isinstance(typed, str):
        return config
    if (foreign := find_foreign(typed)) is not None:
        parent = Parent(run=str(foreign.path), step=0, fingerprint=foreign.fingerprint)
        return config.model_copy(update={"parent": parent})
    parent, max_steps = _checkpoint_named(typed, "from"), config.trainer.max_steps
    if parent.step >= max_steps:
        raise LabError(
            f"trainer.max_steps={max_steps}: from={typed} begins at step {parent.step} and "
            "counts on, so give more"
        )
    return config.model_copy(update={"parent": parent})


def _checkpoint_named(typed: str, key: str) -> Parent:
    """Run, step and fingerprint of a typed `<run>[@<step>|@best]`."""
    run, (_, which) = run_of(typed, key), _split(typed)
    steps = sorted(_steps(run))
    if which == "best":
        step = (run.record.get("best") or {}).get("step") if run.best.is_file() else None
    else:
        step = int(which) if which else max(steps, default=None)
    if step is None or step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise LabError(f"{key}={typed}: no such checkpoint; there is one of step {there}")
    return Parent(run=str(run.path), step=step, fingerprint=fingerprint(run.config))


def _with_teachers(config: Train) -> Train:
    """A folder of runs, such as a sweep's, stands for all of its runs; <run>@snapshots for all
    that it has."""
    typed = config.teacher and config.teacher.runs
    if not config.teacher or not typed:
        return config
    runs: list[Parent] = []
    for one in [typed] if isinstance(typed, str) else typed:
        if not isinstance(one, str):
            runs.append(one)
            continue
        folder = path_typed(one, "teacher.runs")
        if folder.is_dir() and not (folder / CONFIG).is_file():
            inside = sorted(path.parent for path in folder.rglob(RECORD))
            if not inside:
                raise LabError(f"teacher.runs={one}: there is no run in this folder")
            runs += [_checkpoint_named(str(path), "teacher.runs") for path in inside]
        elif one.endswith(AT_SNAPSHOTS):
            run = RunDirectory.open(one.removesuffix(AT_SNAPSHOTS), "teacher.runs")
            steps = snapshots_of(run, f"teacher.runs={one}")
            print_of_run = fingerprint(run.config)
            runs += [Parent(run=str(run.path), step=s, fingerprint=print_of_run) for s in steps]
        else:
            runs.append(_checkpoint_named(one, "teacher.runs"))
    teacher = config.teacher.model_copy(update={"runs": runs})
    return config.model_copy(update={"teacher": teacher})


def snapshots_of(run: RunDirectory, asked: str) -> dict[int, Path]:
    """A run's snapshots by step, for what was `asked`.

    Raises:
        LabError: if it has none.
    """
    if not (snapshots := run.snapshots_by_step()):
        raise LabError(
            f"{asked}: {run.path} has no snapshots; train with schedule=cycles callbacks=snapshots"
        )
    return snapshots


def foreign_parent(parent: Parent) -> Foreign | None:
    """The weights of others that a resolved `from` names; None if it names a run.

    Raises:
        LabError: if they have changed since.
    """
    foreign = find_foreign(parent.run)
    if foreign is not None and foreign.fingerprint != parent.fingerprint:
        raise LabError(f"from={parent.run}: these weights have changed since the run began")
    return foreign


def checkpoint_path(parent: Parent, key: str = "from") -> Path:
    """Where the checkpoint of a resolved `from` is kept, or of one of `teacher.runs`.

    Raises:
        LabError: if it is not there any more.
    """
    run = run_of(parent.run, key)
    steps = _steps(run)
    if key == "teacher.runs":  # which learns from weights alone
        steps = run.snapshots_by_step() | steps
    path = steps.get(parent.step)
    if path is None or fingerprint(run.config) != parent.fingerprint:
        raise LabError(f"{key}={parent.run}@{parent.step}: this checkpoint is gone")
    run.check_checkpoint(path)
    return path


def _split(parent: str) -> tuple[str, str | None]:
    """<run>[@<step>|@best|@last] in two."""
    parts = re.fullmatch(r"(.*)@([0-9]+|best|last)", parent, flags=re.DOTALL)
    if parts is None:
        return parent, None
    return parts[1], None if parts[2] == "last" else parts[2]


def _steps(run: RunDirectory) -> dict[int, Path]:
    """The checkpoints of a run by step."""
    best = (run.record.get("best") or {}).get("step")
    by_step = {best: run.best} if best is not None and run.best.is_file() else {}
    return by_step | run.checkpoints_by_step()
