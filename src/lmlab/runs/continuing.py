"""What a run goes on from: an earlier start of its own, or the checkpoint that `from` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmlab.config.fingerprint import check_continues, fingerprint
from lmlab.config.own_code import changed_code, check_same_code
from lmlab.config.schema import Parent, Train
from lmlab.errors import LabError
from lmlab.runs.checkpoint import read_checkpoint
from lmlab.runs.directory import RECORD, RunDirectory
from lmlab.runs.parents import checkpoint_path, run_of
from lmlab.runs.spent import Spent, spent_at


def run_to_continue(config: Train, looks_for_run: bool = True) -> RunDirectory | None:
    """The run that a config goes on with: the one that it names, or with `resume=auto` the one that
    it began before, where one is looked for. None if it begins a new one.

    Raises:
        LabError: if it is another experiment's, or was begun with other code.
    """
    if config.run:
        run: RunDirectory | None = RunDirectory.open(config.run)
    else:
        run = run_begun_before(config) if config.resume and looks_for_run else None
    if run is not None:
        has_begun, knows_text = bool(run.checkpoints()), run.record.get("corpus_sha256")
        check_continues(run.config, config.plain(), may_change=("corpus",) if knows_text else ())
        if has_begun:
            check_same_code(run.record, config.plain(), f"run={run.path} cannot go on")
    return run


def run_begun_before(config: Train) -> RunDirectory | None:
    """`resume=auto`: the run that a config began before, if there is one.

    The newest that is not finished, else the newest that is; never one that is being trained.
    """
    if config.run_dir is not None:
        run = RunDirectory(Path(config.run_dir))
        return run if (run.path / RECORD).is_file() else None
    folder = Path(config.output_dir) / config.name
    wanted = config.plain()
    begun: dict[bool, RunDirectory] = {}  # by whether it is finished
    for path in sorted(folder.glob(f"*/{RECORD}")):
        run = RunDirectory(path.parent)
        try:
            check_continues(run.config, wanted)
            record = run.record
            is_other = record.get("fingerprint") != fingerprint(wanted)
            if is_other or changed_code(record, wanted):
                continue
        except (LabError, KeyError, TypeError):
            continue  # another experiment, or none at all
        if not run.is_locked():
            begun[record.get("status") == "done"] = run
    return begun.get(False) or begun.get(True)


def parent_checkpoint(named: Parent) -> tuple[dict[str, Any], Spent]:
    """The checkpoint that a resolved `from` names, and what had been spent up to it.

    Raises:
        LabError: if it is not there any more, or not what it was.
    """
    record = run_of(named.run).record
    path = checkpoint_path(named)
    contents = read_checkpoint(path)
    if contents["global_step"] != named.step:
        raise LabError(f"from={path} is of step {contents['global_step']}, whatever its name says")
    return contents, spent_at(contents, record)
