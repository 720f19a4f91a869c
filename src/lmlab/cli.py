"""The commands: Hydra composes, the config is checked, and only then is torch imported."""

from __future__ import annotations

import functools
import io
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from lmlab.config.slips import nearest
from lmlab.config.stored import conf_dir
from lmlab.config.words.command_line import CommandLine
from lmlab.config.words.compose import chosen
from lmlab.config.words.explain import config_dirs, explain, is_explained
from lmlab.config.words.hydra_inside import ours_alone, run_command, version_base
from lmlab.config.words.own_configs import check_own_configs
from lmlab.errors import LabError, one_line, shows_tracebacks
from lmlab.output import whole_output
from lmlab.training.processes.stopping import Interrupted
from lmlab.training.processes.waiting import waiting

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """`lmlab COMMAND …`, or `python -m lmlab COMMAND …`: each command, by its name."""
    name, words = (sys.argv[1], sys.argv[2:]) if sys.argv[1:] else ("--help", [])
    if name in ("-sc", "--shell-completion"):  # a shell asks about a line: lmlab train model=
        program, _, typed = os.environ.get("COMP_LINE", "").partition(" ")
        name, _, line = typed.lstrip().partition(" ")
        os.environ["COMP_LINE"], words = f"{program} {line}", sys.argv[1:]
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    if name in COMMANDS:
        sys.argv = [sys.argv[0], *words]
        COMMANDS[name]()
    elif name == "--version":
        print(_versions())
    elif name in ("-h", "--help", "help"):
        with whole_output():
            print("A laboratory for small language models.\n\nusage: lmlab COMMAND …\n")
            for command, entry in COMMANDS.items():
                print(f"  {command:<10}{(entry.__doc__ or '').splitlines()[0]}")
            print("\nlmlab COMMAND --help says what a command takes.")
    else:
        hint = nearest(name, [*COMMANDS]) or "; lmlab --help lists them"
        print(one_line(f"error: lmlab {name}: no such command{hint}"), file=sys.stderr)
        sys.exit(2)


def sweep() -> None:
    """What a sweep found: its leaderboard, its differences, its figures."""
    from lmlab.sweeps.command import main

    main()


def board() -> None:
    """TensorBoard on every run."""
    from lmlab.sweeps.board_command import main

    main()


def docs() -> None:
    """Where the pages are that tell how it is used."""
    beside = conf_dir().parent  # of a checkout; a wheel has none
    site, pages = beside / "outputs/site/index.html", beside / "docs"
    with whole_output():
        if site.is_file():
            print(site.as_uri())
        elif pages.is_dir():
            print(f"{pages}: the pages as they are written; make docs shows them with search")
        else:
            print("the pages are in docs/ of the lab's repository; --help has every key")


def show() -> None:
    """The result of a run, what it writes like, and what can be done next."""
    from lmlab.core.show import show as show_run
    from lmlab.runs.directory import RunDirectory
    from lmlab.runs.newest import run_meant

    with whole_output():
        try:
            words = sys.argv[1:]
            if len(words) != 1 or words[0].startswith("-"):
                raise LabError("lmlab show takes a run: its directory, a folder of runs, or last")
            typed = words[0].removeprefix("run=")
            run = RunDirectory.open(run_meant(typed, "run"))
            status, metrics = run.record.get("status"), run.record.get("metrics", {})
            if "val/loss_full" not in metrics and status != "done":
                step = run.record.get("step")
                raise LabError(f"{run.path} is {status} at step {step}: it has no result yet")
            show_run(run)
        except LabError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)


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


COMMANDS: dict[str, Callable[[], None]] = {
    entry.__name__: entry for entry in (train, sweep, evaluate, generate, export, board, show, docs)
}


def _train(cfg: DictConfig, given: dict[str, str], swept: set[str]) -> Any:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from lmlab.sweeps.launch.job import train_job

        return train_job(cfg, swept)
    from lmlab.config.check import plain_of
    from lmlab.data.corpus import check_is_there
    from lmlab.runs.parents import config_asked_for

    if not given.keys() & {"run", "from"} and cfg["resume"] is None:
        check_is_there(plain_of(cfg))
    config = config_asked_for(cfg, given)
    if config.dry_run:
        from lmlab.core.plan import plan

        plan(config)
        return None
    from lmlab.core.train import train

    run = train(config, choices=chosen())
    if run is None:
        return None  # the first of several processes says the rest
    if run.record["status"] == "paused":
        return None  # how it goes on is said
    from lmlab.core.show import show as show_run
    from lmlab.runs.record import result_of

    show_run(run, _config_dirs())

    metrics = run.record["metrics"]
    return metrics[result_of(metrics)]


def _evaluate(cfg: DictConfig, given: dict[str, str], swept: set[str]) -> None:
    from lmlab.config import check, schema

    config = check.check(cfg, schema.Evaluate, **given)
    from lmlab.core.evaluate import evaluate

    evaluate(config)


def _generate(cfg: DictConfig, given: dict[str, str], swept: set[str]) -> None:
    from lmlab.config import check, schema

    config = check.check(cfg, schema.Generate, **given)
    from lmlab.core.generate import write

    write(config)


def _export(cfg: DictConfig, given: dict[str, str], swept: set[str]) -> None:
    from lmlab.config import check, schema

    config = check.check(cfg, schema.Export, **given)
    from lmlab.core.export import export

    export(config)


def _config_dirs() -> list[str]:
    """The flag that gave a folder of configs: what it holds is looked up again."""
    from hydra.core.hydra_config import HydraConfig

    sources = HydraConfig.get().runtime.config_sources
    typed = [source.path for source in sources if source.provider == "command-line"]
    return [f"--config-dir {shlex.quote(path)}" for path in typed]


Task = Callable[["DictConfig", dict[str, str], set[str]], Any]


def _command(entry: Callable[[], None], task: Task, texts: tuple[str, ...]) -> None:
    """Run the command of an entry point; a full standard output is an error, once it is done."""
    with whole_output() as out:
        _run(entry, task, texts)
    if out.problem is not None:
        print(f"error: {out.problem}", file=sys.stderr)
        sys.exit(2)


def _run(entry: Callable[[], None], task: Task, texts: tuple[str, ...]) -> None:
    """Compose and check the config of a command, and do what it says.

    An error that the user can put right is one line and exit status 2.

    `texts` are the keys whose value is taken as it was typed, outside Hydra's grammar: a prompt may
    hold commas, quotes and braces. HYDRA_FULL_ERROR=1 shows tracebacks, as with Hydra anywhere.
    """
    import hydra

    name = entry.__name__
    if "--version" in sys.argv[1:]:  # Hydra's parser would say its own
        print(_versions())
        return
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
        for folder in config_dirs(words)[1:]:
            check_own_configs(folder, line.overrides)
        line.check(name)
        if line.given.keys() & {"run", "from"}:
            line = _with_runs_meant(line)
        for_hydra = line.for_hydra
        if line.parent is not None or "run" in line.given:  # else nothing waits for what it imports
            from lmlab.runs.parents import words_for_hydra

            for_hydra = words_for_hydra(line)
    except Exception as error:
        if is_explained(error):
            fail(error)
        raise

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

    main = hydra.main(config_path=str(conf_dir()), config_name=name, **version_base())
    # Hydra reads its arguments from sys.argv, and raises what it would print if this is set.
    before = sys.argv
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [sys.argv[0], *for_hydra], "1"
    try:
        if line.asks_help:
            print(_help(entry, line, words))
        else:
            with ours_alone(), _package_shown():
                if line.asks_hydra:
                    main(guarded)()
                else:
                    overrides = [word for word in for_hydra if word not in line.flags]
                    run_command(conf_dir(), name, overrides, line.is_multirun, guarded)
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


@contextmanager
def _package_shown() -> Iterator[None]:
    """A `--package` that --cfg cannot show: Hydra writes that itself, and exits with 1."""
    written = io.StringIO()
    shows = any(word.startswith(("--cfg", "-c")) for word in sys.argv[1:])
    try:
        with redirect_stderr(written) if shows else nullcontext():
            yield
    except SystemExit as left:
        if left.code == 1 and written.getvalue().startswith("package "):
            raise LabError(f"--{written.getvalue().strip()}") from left
        raise
    finally:
        if not written.getvalue().startswith("package "):
            sys.stderr.write(written.getvalue())


def _with_runs_meant(line: CommandLine) -> CommandLine:
    """With the path of each run that is named as the newest of several; it is said which."""
    from lmlab.runs.newest import run_meant

    given = dict(line.given)
    for key in given.keys() & {"run", "from"}:
        given[key] = run_meant(given[key], key, line.fixed_value("output_dir") or "outputs")
        if given[key] != line.given[key]:
            # A generated text may go into a pipe.
            print(f"{key}={line.given[key]} is {given[key]}", file=sys.stderr)
    return replace(line, given=given)


def _versions() -> str:
    """The lab's version, and those of what its results rest on."""
    from importlib.metadata import version

    from lmlab import __version__

    below = ("torch", "lightning", "hydra-core", "tensorboard", "numpy")
    others = ", ".join(f"{name} {version(name)}" for name in below)
    return f"lmlab {__version__} ({others}; Python {platform.python_version()})"


def _help(entry: Callable[[], None], line: CommandLine, words: list[str]) -> str:
    from lmlab.config.words.help import help_text
    from lmlab.console import command

    name = entry.__name__
    topics = [word for word in line.overrides if "=" not in word and word[0] not in "~+"]
    overrides = [word for word in line.overrides if word not in topics]
    about = entry.__doc__ or ""
    return help_text(name, about, command(name), topics, overrides, config_dirs(words))


if __name__ == "__main__":
    main()
