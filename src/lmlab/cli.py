"""The commands: Hydra composes, the config is checked, and only then is torch imported."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from lmlab.command_line import CommandLine
from lmlab.composition import asked, chosen, composed, job
from lmlab.conf import conf_dir
from lmlab.errors import LabError, one_line, shows_tracebacks
from lmlab.hydra_errors import explain, is_explained
from lmlab.training.stopping import Interrupted
from lmlab.waiting import waiting

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lmlab.runs import Run


def train() -> None:
    """Train one run, or with -m many."""
    _command(train, _train, texts=("run", "from"))


def evaluate() -> None:
    """The loss of a run's checkpoint on every val token."""
    _command(evaluate, _evaluate, texts=("run", "checkpoint"))


def generate() -> None:
    """Text from a run's checkpoint."""
    _command(generate, _generate, texts=("run", "checkpoint", "prompt"))


def export() -> None:
    """A run's model in a form that others read."""
    _command(export, _export, texts=("run", "checkpoint", "folder"))


def _train(cfg: DictConfig, given: dict[str, str], swept: set[str]) -> Any:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return job(cfg, swept)
    config = asked(cfg, given)
    if config["dry_run"]:
        from lmlab.plan import plan

        plan(config)
        return None
    from lmlab.training_run import train

    run = train(config, choices=chosen())
    if run is None:
        return None  # the first of several processes says the rest
    _show(run)
    return run.record["metrics"]["val/loss_full"]


def _evaluate(cfg: DictConfig, given: dict[str, str], swept: set[str]) -> None:
    from lmlab import schema
    from lmlab.config import check

    config = check(cfg, schema.Evaluate, **given)
    from lmlab.evaluate import evaluate

    evaluate(config)


def _generate(cfg: DictConfig, given: dict[str, str], swept: set[str]) -> None:
    from lmlab import schema
    from lmlab.config import check

    config = check(cfg, schema.Generate, **given)
    from lmlab.generation import write

    write(config)


def _export(cfg: DictConfig, given: dict[str, str], swept: set[str]) -> None:
    from lmlab import schema
    from lmlab.config import check

    config = check(cfg, schema.Export, **given)
    from lmlab.exchange.export import export

    export(config)


def _show(run: Run) -> None:
    """The end of a run: its result, what it writes like, and what to do next."""
    from lmlab.console import command, console, say

    metrics, step = run.record["metrics"], run.record["step"]
    this = shlex.quote(f"run={run.path}")
    if (sample := run.sample) is not None:
        console.rule("sample", style="dim")
        say(sample)
        console.rule(style="dim")
    say(
        f"val/loss_full {metrics['val/loss_full']:.4f} nats per token, "
        f"val/bpc {metrics['val/bpc']:.4f} bits per character (each val token predicted once)"
    )
    if (dynamic := metrics.get("val/loss_dynamic")) is not None:
        say(f"val/loss_dynamic {dynamic:.4f} nats per token (it learns from val as it reads it)")
    say(f"run       {run.path}")
    in_checkout = command("train").startswith("python")
    say(f"look      {'make board' if in_checkout else 'lmlab-board'}")
    say(f'sample    {command("generate")} {this} prompt="ROMEO:"')
    say(f"evaluate  {command('evaluate')} {this}")
    if step:
        that = shlex.quote(f"from={run.path}")
        say(f"longer    {command('train')} {that} trainer.max_steps={2 * step}")


Task = Callable[["DictConfig", dict[str, str], set[str]], Any]


def _command(entry: Callable[[], None], task: Task, texts: tuple[str, ...]) -> None:
    """Run the command of an entry point.

    An error that the user can put right is one line and exit status 2.

    `texts` are the keys whose value is taken as it was typed, outside Hydra's grammar: a prompt may
    hold commas, quotes and braces. HYDRA_FULL_ERROR=1 shows tracebacks, as with Hydra anywhere.
    """
    import hydra

    name = entry.__name__
    waiting.look()  # what others do while this is set up tells how its threads should wait
    words = sys.argv[1:]
    shows_traceback = shows_tracebacks()

    def fail(error: BaseException) -> NoReturn:
        if shows_traceback:
            raise error
        print(f"error: {one_line(explain(error, name, words))}", file=sys.stderr)
        sys.exit(2)

    try:
        line = CommandLine.parse(words, texts)
        line.check(name)
        for_hydra = line.for_hydra
    except LabError as error:
        fail(error)

    @functools.wraps(task)
    def guarded(cfg: DictConfig) -> Any:
        try:
            return task(cfg, line.given, line.swept)
        except Interrupted as stopped:
            raise SystemExit(128 + stopped.signum) from None
        except Exception as error:
            if is_explained(error):
                fail(error)
            raise

    main = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)
    # Hydra reads its arguments from sys.argv, and raises what it would print if this is set.
    before = sys.argv
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [sys.argv[0], *for_hydra], "1"
    try:
        # With other flags, such as --config-dir, help is Hydra's: it knows what they mean.
        if line.flags and set(line.flags) <= {"-h", "--help"}:
            print(_help(entry, line.overrides))
        else:
            main(guarded)()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if is_explained(error):
            fail(error)
        raise
    finally:
        sys.argv = before
        if not shows_traceback:
            del os.environ["HYDRA_FULL_ERROR"]


def _help(entry: Callable[[], None], overrides: list[str]) -> str:
    from lmlab.console import command
    from lmlab.help import help_text

    name = entry.__name__
    return help_text(
        composed(name, overrides, with_hydra=True), command(name), entry.__doc__ or "", conf_dir()
    )
