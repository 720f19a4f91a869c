"""A training run: one config in, one run directory out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from lmlab.config import trust
from lmlab.config.own_code import parts_named
from lmlab.config.schema import Train
from lmlab.config.targets import class_name
from lmlab.console import logged_to, quiet_libraries, say
from lmlab.core.experiment import Experiment
from lmlab.data.streams import own_default_generators
from lmlab.display.loggers import begin, begin_end, end, told_of_end
from lmlab.display.samples import Sample
from lmlab.errors import LabError
from lmlab.files import write_atomically
from lmlab.models.contract import Hooks
from lmlab.runs.checkpoint import WEIGHTS_ALONE, Resumed
from lmlab.runs.directory import LOG, SAMPLE, RunDirectory
from lmlab.runs.spent import NOTHING
from lmlab.training import preflight
from lmlab.training.beginning.start import Start
from lmlab.training.callbacks import Bar, Checkpoints, GiveWay, NoteSignals, Recorder
from lmlab.training.costs.costs import costs_of
from lmlab.training.evaluating.beside_loss import AskTasks
from lmlab.training.lightning_inside import refusals_of_callbacks
from lmlab.training.outcome import outcome_recorded
from lmlab.training.processes import starting
from lmlab.training.processes.processes import Processes
from lmlab.training.processes.stopping import Paused, Stop
from lmlab.training.processes.waiting import waiting
from lmlab.training.trainer import make_trainer


def train(
    config: Train,
    swept: dict[str, Any] | None = None,
    choices: dict[str, str] | None = None,
    begun: Callable[[Path], object] = lambda path: None,
) -> RunDirectory | None:
    """Train what a checked and resolved config says (see `runs.parents.resolve`), and return the
    run: its directory holds all there is.

    Of several processes that train one run, the first returns it, and the others None.

    A config whose `run` names a directory goes on from that run's last checkpoint; so does one with
    `resume=auto`, if it finds a run of its own that was begun before. `swept` goes into the record:
    the keys that a sweep varies, with this run's values; `choices` too, the option of each group
    that the config was composed of. `begun` is told the run's directory once it is known.

    What a run needs of its process it has for itself, so runs may follow each other in one process,
    and each computes what it would alone; one of another thread waits for its turn. torch's default
    generators are afterwards as they were.

    Raises:
        LabError: for anything the user can put right. Before the run directory is made, as far as
            it can be known before.
        Interrupted: if a signal asked to stop; everything is on disk.
    """
    quiet_libraries()
    waiting.settle()
    asked = {"swept": swept, "choices": choices}
    with own_default_generators():
        processes = Processes(config)
        if processes.are_to_be_started:  # each of them runs these lines
            return starting.start(processes, config, **asked)
        with processes.met(), parts_named(config.plain()):
            run = _train(config, asked, processes, begun)
            return run if processes.is_first else None


def _train(
    config: Train,
    asked: dict[str, Any],
    processes: Processes,
    begun: Callable[[Path], object],
) -> RunDirectory | None:
    """What each process does. The directory, its record, log and curves are the first one's."""
    stop, curves = Stop(config.pause_at), list[Logger]()
    with processes.agreed():
        # New, or where an earlier run, a parent or foreign weights end.
        start = Start.find(config, looks_for_run=processes.is_first)
        run, resumed = start.run, None
        if processes.is_first and run is not None and start.is_finished:
            begun(run.path)
            start.keep_moved_text(run)
            record = run.record
            say(f"{run.path} is {record['status']} already, after {record['step']} steps")
            if not run.checkpoints() and run.best.is_file():
                say(f"{WEIGHTS_ALONE}; from={run.path} begins a new run with them")
    if processes.gather(start.is_finished)[0]:
        return run
    with processes.agreed():
        made = Experiment.of(config, start, stop)
    if len(set(processes.gather(made.parts.text.sha256))) > 1:
        raise LabError("the processes of the run do not read the same corpus")
    with suppress(Paused), stop.listening(), ExitStack() as kept:  # the record says so
        with processes.agreed():
            if processes.is_first:
                run = run or RunDirectory.create(config, **asked)  # the first file is written here
                begun(run.path)
                kept.enter_context(run.locked())
                tokenizer = class_name(type(made.parts.text.tokenizer))
                if (line := trust.remember(config.plain(), tokenizer)) is not None:
                    say(line)
                kept.enter_context(logged_to(run.path / LOG))
                resumed = _begin(start, run, asked, made, processes.world_size)
                kept.enter_context(told_of_end(curves, run))
                kept.enter_context(outcome_recorded(run))
        shared = (run and run.path.absolute(), resumed and resumed.place)
        path, place = processes.gather(shared)[0]
        if not processes.is_first:
            run, resumed = RunDirectory(path), place
        assert run is not None
        _fit(made, run, resumed, curves)
    return run


def _begin(
    start: Start, run: RunDirectory, asked: dict[str, Any], made: Experiment, n_processes: int
) -> Resumed | None:
    """Keep what the run begins with; the checkpoint that it goes on from, if there is one."""
    config, callbacks = start.config, made.parts.callbacks
    start.keep_in(run, made.module, made.data, callbacks)
    resumed = start.resumed(run, made.module, callbacks)
    if start.run is not None:
        run.begin(config.plain(), **asked)
    run.update(**made.about)
    where = f"kept in {run.path}" + (f", going on from step {resumed.step}" if resumed else "")
    for line in (*made.introduction(n_processes), where, *preflight.remarks(config)):
        say(line)
    return resumed


def _fit(
    made: Experiment, run: RunDirectory, resumed: Resumed | None, curves: list[Logger]
) -> None:
    """Train, evaluate a last time, and leave a last checkpoint, a sample and a finished record.

    Raises:
        Paused: at the step that the config says, if that comes before the end.
    """
    config, parts, data, module = made.parts.config, made.parts, made.data, made.module
    curves.extend(parts.loggers(run, resumed.step if resumed and resumed.checkpoint else None))
    recorder, keeper = Recorder(run), Checkpoints(run, module.stop, **dict(config.checkpoint))
    # What is kept, once all else is done; a report to a trial comes before, so that none is missing
    # where training goes on from a checkpoint.
    kept = [*parts.trial, keeper, NoteSignals(module.stop), GiveWay()]
    how = parts.text.tokenizer, data.stride, config.eval.tasks_every
    last = None if data.n_full else config.trainer.max_steps
    asking = [AskTasks(made.items, *how, last)] if made.items else []
    callbacks = [*parts.callbacks, *asking, Bar(), recorder, *kept]
    trainer = make_trainer(config, run, data, callbacks, curves, resumed)
    if trainer.is_global_zero:
        before = resumed.spent if resumed else NOTHING
        recorder.costs = costs_of(config, module, data, trainer.world_size, before)
        begin(curves, module, recorder.costs, run.record["started"])
    count = Hooks.of(module.model).fit
    if count is not None:  # there is no gradient to descend
        count(data.train_tokens.whole())
    elif config.trainer.max_steps:
        if resumed and config.pause_at and resumed.step >= config.pause_at:
            raise Paused(resumed.step)  # it was killed before its record said so
        with refusals_of_callbacks(config.callbacks):
            trainer.fit(module, datamodule=data, ckpt_path=resumed.checkpoint if resumed else None)
    begin_end(curves)
    # Interrupted from here on, a run does all of it again: what the end logs is in its own files.
    if recorder.step != trainer.global_step:  # training did not end on an evaluation
        if trainer.global_step:
            keeper.save(trainer, module)
        trainer.validate(module, datamodule=data, verbose=False)
    if data.n_full:
        trainer.validate(module, data.full_dataloader(), verbose=False)
    if trainer.is_global_zero:
        for sampler in (one for one in parts.callbacks if isinstance(one, Sample)):
            sample = sampler.text or sampler.make(module)
            write_atomically(run.path / SAMPLE, sample.encode())
        end(curves, "done")  # before the record: a run that says done is not looked at again
    keeper.save(trainer, module)
    if trainer.is_global_zero:
        run.update(status="done", step=trainer.global_step, metrics=recorder.metrics)
        keeper.leave_weights()  # only now is there nothing that may have to go on
