"""A training run: one config in, one run directory out."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from lmlab.config import build, trust
from lmlab.config.fingerprint import check_continues, fingerprint
from lmlab.config.own_code import check_same_code, code_of, parts_named
from lmlab.console import command, console, log, logged_to, quiet_libraries, say, shown_on
from lmlab.data.datamodule import TextDataModule
from lmlab.data.streams import own_default_generators
from lmlab.data.tokenizer import Tokenizer, class_name
from lmlab.data.tokens import text_of
from lmlab.display.from_config import loggers
from lmlab.display.loggers import begin, end, event_files
from lmlab.display.samples import Sample
from lmlab.errors import DivergedError, LabError
from lmlab.exchange.foreign import Foreign
from lmlab.files import read_small, write_atomically
from lmlab.runs.checkpoint import AtomicCheckpointIO, Start, newest_whole, read
from lmlab.runs.directory import LOG, RECORD, SAMPLE, TOKENIZER, Run
from lmlab.runs.parents import checkpoint_path, foreign_parent, resolve, run_of
from lmlab.training import preflight, processes
from lmlab.training.assemble import make_callbacks, make_data, make_module, refusals_of_callbacks
from lmlab.training.branch import first_checkpoint, fitted
from lmlab.training.callbacks import (
    Bar,
    Checkpoints,
    Neighbourly,
    OwnSignals,
    Recorder,
)
from lmlab.training.module import LanguageModule
from lmlab.training.optimizers.rules import n_inside
from lmlab.training.processes import Processes
from lmlab.training.restored import check_goes_on
from lmlab.training.spent import NOTHING, costs_of, spent_at
from lmlab.training.stopping import Interrupted, Pruned, Stop
from lmlab.training.waiting import waiting

MOST_TOKENIZER = 1 << 28  # bytes


def help_to_train() -> None:
    """What a helping process does; `Processes` starts it."""
    config = pickle.load(sys.stdin.buffer)

    def end_with_the_first() -> None:
        os.read(sys.stdin.fileno(), 1)  # nothing more is written: it returns at the end
        os._exit(1)

    threading.Thread(target=end_with_the_first, daemon=True).start()
    console.quiet = True

    try:
        train(config)
    except (Interrupted, Pruned):
        pass  # the first process prints it
    except LabError as error:
        # What fails in all of them is printed by the first process, which then ends this one.
        time.sleep(2)
        print(f"error: process {os.environ['LOCAL_RANK']}: {error}", file=sys.stderr)
        sys.exit(2)


def train(
    config: dict[str, Any],
    swept: dict[str, Any] | None = None,
    choices: dict[str, str] | None = None,
    *,
    stop: Stop | None = None,
    console: Console | None = None,
) -> Run | None:
    """Train what a checked config says, and return the run: its directory holds all there is.

    Of several processes that train one run, the first returns it, and the others None.

    A config whose `run` names a directory goes on from that run's last checkpoint; so does one with
    `resume=auto`, if it finds a run of its own that was begun before. `swept` goes into the record:
    the keys that a sweep varies, with this run's values; `choices` too, the option of each group
    that the config was composed of.

    What a run needs of its process it has for itself, so runs may follow each other in one process,
    and each computes what it would alone; one of another thread waits for its turn. `stop` can be
    asked to end it (in the main thread signals do); `console` is where it says what it does (None:
    the process's). torch's default generators are afterwards as they were.

    Raises:
        LabError: for anything the user can put right. Before the run directory is made, as far as
            it can be known before.
        Interrupted: if a signal asked to stop; everything is on disk.
    """
    quiet_libraries()
    waiting.settle()
    config = resolve(config)
    stop = Stop() if stop is None else stop
    named = parts_named(config)
    with shown_on(console), own_default_generators(), named, Processes(config) as crew:
        if crew.rank:
            with shown_on(Console(quiet=True)):
                _help_to_train(config, crew, stop)
            return None
        return _train(config, {"swept": swept, "choices": choices}, crew, stop)


def _train(config: dict[str, Any], asked: dict[str, Any], crew: Processes, stop: Stop) -> Run:
    """The part of the first process."""
    run = _run_to_continue(config)
    if run is not None:
        knows_text = run.record.get("corpus_sha256") is not None
        check_continues(run.config, config, may_change=("corpus",) if knows_text else ())
        if run.checkpoints():
            check_same_code(run.record, config, f"run={run.path} cannot go on")
        if run.record.get("status") == "done" and run.record["step"] >= _max_steps(config):
            say(f"{run.path} is done already, after {run.record['step']} steps")
            return run
    parent, foreign = _parent(config, run), _foreign(config, run)
    text = text_of(config, tokenizer_of_parent(config, run, parent))
    if run is not None and run.record.get("corpus_sha256", text.sha256) != text.sha256:
        raise LabError(f"run={run.path} cannot go on: its corpus has changed since it began")
    data = make_data(config, text)
    preflight.check(config, data.vocab_size)
    module = make_module(config, text, stop)
    if foreign is not None:
        module.model.load_state_dict(foreign.weights(module.model))
    prepare(module, data)
    preflight.check_logits(
        module.model, config["model"]["_target_"], data.vocab_size, data.block_size
    )
    callbacks, make_loggers = make_callbacks(config, text), loggers(config)
    if parent is not None:
        parent = fitted(parent, module, callbacks)
    new = run is None
    trust.remember(config, class_name(type(text.tokenizer)))
    run = run or Run.create(config, **asked)
    with run.locked(), logged_to(run.path / LOG), stop.listening():
        if parent is not None or foreign is not None:
            stored = json.dumps(text.tokenizer.stored())
            write_atomically(run.path / TOKENIZER, stored.encode())
        if parent is not None:
            before = spent_at(parent, run_of(config["from"]["run"]).record)
            first = first_checkpoint(parent, module, data, callbacks, before)
            run.update(before=before.recorded, **before.recorded)
            AtomicCheckpointIO().save_checkpoint(first, run.step_checkpoint(first["global_step"]))
        start = _start(run, module, callbacks) if parent is not None or not new else None
        if not new:
            if run.record.get("fingerprint", fingerprint(config)) != fingerprint(config):
                say("it was begun by an earlier lmlab, whose schedule ended a step before today's")
            run.go_on(config, **asked)
        run.update(
            corpus_sha256=text.sha256,
            code=code_of(config),
            parameters=sum(p.numel() for p in module.model.parameters()),
            parameters_inside=n_inside(module.model),
            train_tokens=len(data.train_tokens),
        )
        _introduce(config, data, module, run, start)
        curves: list[Logger] = []
        try:
            with _outcome_recorded(run), crew.together():
                crew.broadcast(
                    SharedRun(
                        run.path.absolute(),
                        start and Start(start.step, start.checkpoint),
                        text.sha256,
                    ),
                    on_loss=lambda error: _record_failure(run, error),
                )
                resume_step = start.step if start is not None and start.checkpoint else None
                curves.extend(make_loggers(run, resume_step))
                _fit(config, data, module, callbacks, run, start, curves)
        except BaseException:
            with suppress(LabError):  # the directory may be gone
                end(curves, run.unchecked_record.get("status", "failed"))
            raise
    return run


def _run_to_continue(config: dict[str, Any]) -> Run | None:
    if config["run"]:
        return Run.open(config["run"])
    return Run.to_resume(config) if config["resume"] else None


def _parent(config: dict[str, Any], run: Run | None) -> dict[str, Any] | None:
    """The checkpoint that a run begins from; None where it has one of its own, or begins anew."""
    if _begins_by_itself(config, run) or foreign_parent(config["from"]) is not None:
        return None
    path = checkpoint_path(config["from"])
    parent = read(path)
    if parent["global_step"] != config["from"]["step"]:
        raise LabError(f"from={path} is of step {parent['global_step']}, whatever its name says")
    return parent


def _foreign(config: dict[str, Any], run: Run | None) -> Foreign | None:
    """The weights of others that a run begins with; None as above."""
    return None if _begins_by_itself(config, run) else foreign_parent(config["from"])


def _begins_by_itself(config: dict[str, Any], run: Run | None) -> bool:
    return config["from"] is None or (run is not None and bool(run.checkpoints()))


def tokenizer_of_parent(
    config: dict[str, Any], run: Run | None = None, parent: dict[str, Any] | None = None
) -> Tokenizer | None:
    """The tokenizer of the run that this one begins from; None if it begins from none.

    It stands in the `parent`'s checkpoint, and in the directory of the `run` once there is one.
    """
    if config["from"] is None:
        return None
    if parent is None and run is not None and (run.path / TOKENIZER).is_file():
        try:
            stored = read_small(run.path / TOKENIZER, MOST_TOKENIZER, within=run.path)
            return Tokenizer.from_json(json.loads(stored))
        except (OSError, ValueError, RecursionError) as error:
            raise LabError(f"{run.path / TOKENIZER} cannot be read: {error}") from error
    if parent is None and (foreign := foreign_parent(config["from"])) is not None:
        return foreign.tokenizer()
    if parent is None:
        parent = read(checkpoint_path(config["from"]))
    return Tokenizer.from_json(parent["tokenizer"])


def prepare(module: LanguageModule, data: TextDataModule) -> None:
    """Show the train split to a model that wants to see it before its first step."""
    if (look := getattr(module.model, "prepare", None)) is not None:
        look(data.train_tokens)


def _max_steps(config: dict[str, Any]) -> int:
    return config["trainer"]["max_steps"]


@dataclass(frozen=True)
class SharedRun:
    """What the other processes of a run learn from the first."""

    path: Path
    start: Start | None
    corpus_sha256: str


def _start(run: Run, module: LanguageModule, callbacks: list[L.Callback]) -> Start:
    found = newest_whole(run, lambda stored: check_goes_on(stored, module, callbacks))
    if found is None:
        return Start(0, None)
    path, contents = found
    return Start(contents["global_step"], path.absolute(), contents)


def _help_to_train(config: dict[str, Any], crew: Processes, stop: Stop) -> None:
    """Train as one of several processes: the first sees to the directory, and says what is said."""
    with stop.listening():
        processes.unblock_signals()
        problem: Exception | None = None
        try:
            run = Run.open(config["run"]) if config["run"] else None
            text = text_of(config, tokenizer_of_parent(config, run))
            data, module = make_data(config, text), make_module(config, text, stop)
            if (foreign := _foreign(config, run)) is not None:
                module.model.load_state_dict(foreign.weights(module.model))
            prepare(module, data)
            callbacks, make_loggers = make_callbacks(config, text), loggers(config)
        except Exception as error:
            problem = error  # reported once the others are there
        shared: SharedRun | None = crew.receive()
        if shared is None:
            return  # done already
        if problem is None and text.sha256 != shared.corpus_sha256:
            problem = LabError("the corpus differs from the one that the first process has")
        crew.ready(problem)
        run, start = Run(shared.path), shared.start
        resume_step = start.step if start is not None and start.checkpoint else None
        curves = list(make_loggers(run, resume_step))
        with crew.together():
            _fit(config, data, module, callbacks, run, start, curves)


@contextmanager
def _outcome_recorded(run: Run) -> Iterator[None]:
    """Leave in the record how training ended."""
    try:
        try:
            yield
        except SIGTERMException:  # Lightning's own answer, in the middle of an evaluation
            raise Interrupted(signal.SIGTERM, run.record["step"]) from None
    except Interrupted as stopped:
        run.update(status="interrupted", step=stopped.step)
        say(f"{stopped}; everything is kept")
        say(f"continue  {command('train')} {shlex.quote(f'run={run.path}')}")
        raise
    except Pruned as pruned:
        run.update(status="pruned", step=pruned.step)
        say(str(pruned))
        raise
    except BaseException as error:
        _record_failure(run, error)
        if isinstance(error, Exception) and not (run.path / RECORD).is_file():
            raise LabError(
                f"run={run.path} is gone: it was moved or deleted while it was trained"
            ) from error
        if isinstance(error, OSError):
            raise LabError(f"{run.path}: {error.strerror or error}") from error
        raise


def _record_failure(run: Run, error: BaseException) -> None:
    with suppress(LabError):  # the disk may be what failed
        log.error("failed", exc_info=error)
        reason = f"{type(error).__name__}: {error}"
        run.update(status="failed", error=reason, diverged=isinstance(error, DivergedError))


def _fit(
    config: dict[str, Any],
    data: TextDataModule,
    module: LanguageModule,
    callbacks: list[L.Callback],
    run: Run,
    start: Start | None,
    curves: list[Logger],
) -> None:
    """Train, evaluate a last time, and leave a last checkpoint, a sample and a finished record."""
    settings = config["trainer"]
    recorder = Recorder(run)
    keeper = Checkpoints(run, module.stop, **config["checkpoint"])
    trial = (config.get("sweep") or {}).get("trial")
    fresh = start is None or start.checkpoint is None
    separate = config["streams"] == "separate"
    trainer = processes.trainer(
        config,
        max_steps=settings["max_steps"],
        val_check_interval=data.batches_per_eval,
        check_val_every_n_epoch=None,  # count over the whole run: it is one long epoch
        # An evaluation before the first step. On one global stream it would draw from it.
        num_sanity_val_steps=-1 if config["eval"]["at_start"] and fresh and separate else 0,
        # What is kept, once all else is done; a report to a trial comes before, so that none is
        # missing where training goes on from a checkpoint.
        callbacks=[
            *callbacks,
            *(Bar(), recorder),
            *([build.part(trial, "sweep.trial", L.Callback)] if trial else []),
            *(keeper, OwnSignals(module.stop), Neighbourly()),
        ],
        logger=curves,
        plugins=[AtomicCheckpointIO(start)],
        default_root_dir=run.path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,  # the module does the logging; this keeps Lightning from warning
    )
    if trainer.is_global_zero:
        before = spent_at(start.contents, run.record) if start and start.contents else NOTHING
        recorder.costs = costs_of(config, module, data, trainer.world_size, before)
        begin(curves, module, recorder.costs, run.record["started"])
    count = getattr(module.model, "fit", None)
    if count is not None:  # there is no gradient to descend
        count(data.train_tokens)
    elif settings["max_steps"]:
        with refusals_of_callbacks(config):
            trainer.fit(module, datamodule=data, ckpt_path=start.checkpoint if start else None)
    for logger in event_files(trainer.loggers):
        logger.begin_end()
    # Interrupted from here on, a run does all of it again: what the end logs is in its own files.
    if recorder.step != trainer.global_step:  # training did not end on an evaluation
        if trainer.global_step:
            keeper.save(trainer, module)
        trainer.validate(module, datamodule=data, verbose=False)
    trainer.validate(module, data.full_dataloader(), verbose=False)
    if trainer.is_global_zero:
        for sampler in (callback for callback in callbacks if isinstance(callback, Sample)):
            text_made = sampler.text or sampler.make(module)
            write_atomically(run.path / SAMPLE, text_made.encode())
        end(curves, "done")  # before the record: a run that says done is not looked at again
    keeper.save(trainer, module)
    if trainer.is_global_zero:
        run.update(status="done", step=trainer.global_step, metrics=recorder.metrics)


def _introduce(
    config: dict[str, Any],
    data: TextDataModule,
    module: LanguageModule,
    run: Run,
    start: Start | None,
) -> None:
    n_parameters = sum(p.numel() for p in module.model.parameters())
    say(
        f"{config['name']}: {type(module.model).__name__} of {n_parameters:,} parameters; "
        f"{len(data.train_tokens):,} train and {len(data.val_tokens):,} val tokens, "
        f"vocabulary of {data.vocab_size:,}"
    )
    if data.steps_per_batch != config["data"]["steps_per_batch"]:
        say("data.steps_per_batch: 1, so that every part sees every step")
    say(f"kept in {run.path}" + (f", going on from step {start.step}" if start else ""))
    for remark in preflight.remarks(config):
        say(remark)
