"""The commands: Hydra composes, the config is checked, and only then is torch imported."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lmlab.command_line import CommandLine, one_line
from lmlab.conf import conf_dir
from lmlab.errors import LabError
from lmlab.training.stopping import Interrupted
from lmlab.waiting import waiting

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lmlab.runs import Run


def composed(name: str, overrides: list[str], with_hydra: bool = False) -> DictConfig:
    """The config of a command, without running it; `with_hydra` keeps Hydra's own node."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(name, overrides, return_hydra_config=with_hydra)


def train() -> None:
    """Train one run, or with -m many."""
    _command(train, _train, texts=("run", "from"))


def evaluate() -> None:
    """The loss of a run's checkpoint on every val token."""
    _command(evaluate, _evaluate, texts=("run", "checkpoint"))


def generate() -> None:
    """Text from a run's checkpoint."""
    _command(generate, _generate, texts=("run", "checkpoint", "prompt"))


def _train(cfg: DictConfig, given: dict[str, str], swept: set[str]) -> float | None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from lmlab.sweeps.job import run_job

        return run_job(
            cfg,
            Path(HydraConfig.get().sweep.dir),
            _swept_values(swept),
            list(HydraConfig.get().overrides.task),
            chosen(),
        )
    from lmlab import schema
    from lmlab.config import check
    from lmlab.parents import config_of

    if "run" in given:
        cfg = _continued(given["run"])
    elif "from" in given:
        cfg["from"] = given.pop("from")
        cfg = config_of(cfg, HydraConfig.get().overrides.task)
    config = check(cfg, schema.Train, **given)
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


def _swept_values(swept: set[str]) -> dict[str, Any]:
    """The keys that the multirun varies, with the values they have in this job."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from lmlab.sweeps.axes import swept_keys

    hydra = HydraConfig.get()
    axes = swept | {key.lstrip("+~") for key in swept_keys(hydra.sweeper)}
    parsed = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    values = {o.get_key_element().lstrip("+~"): o.value() for o in parsed}
    return {key: _plain_value(value) for key, value in values.items() if key in axes}


def chosen() -> dict[str, str]:
    """The options that the config was composed of, by group."""
    from hydra.core.hydra_config import HydraConfig

    found = HydraConfig.get().runtime.choices
    return {
        group: option
        for group, option in found.items()
        if option is not None and not group.startswith(("hydra", "experiment", "sweep"))
    }


def _plain_value(value: Any) -> Any:
    """A value of Hydra's grammar as JSON has it."""
    if isinstance(value, dict):
        return {str(key): _plain_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain_value(inner) for inner in value]
    return value if isinstance(value, bool | int | float | None) else str(value)


def _continued(path: str) -> DictConfig:
    """The config stored in a run, changed by the overrides on the command line."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import DictConfig, OmegaConf

    from lmlab.runs import Run

    cfg = OmegaConf.create(Run.open(path).config)
    overrides = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    for override in overrides:
        key, value = override.key_or_group, override.value()
        turned_off = key.startswith("logger.") and (value is None or value is False)
        is_group = isinstance(OmegaConf.select(cfg, key), DictConfig) and not turned_off
        if is_group or key == "experiment":
            raise LabError(f"{key}={value}: a run is continued with its own {key}")
        OmegaConf.update(cfg, key, value)
    return cfg


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
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    name = entry.__name__
    waiting.look()  # what others do while this is set up tells how its threads should wait
    explained = (LabError, HydraException, OmegaConfBaseException)
    shows_traceback = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")

    def fail(error: BaseException) -> NoReturn:
        if shows_traceback:
            raise error
        print(f"error: {one_line(_explain(error, name))}", file=sys.stderr)
        sys.exit(2)

    try:
        line = CommandLine.parse(sys.argv[1:], texts)
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
        except explained as error:
            fail(error)

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
        if isinstance(error, explained) or _raised_by_hydra(error):
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


def _raised_by_hydra(error: BaseException) -> bool:
    """Whether it was Hydra, or what it reads files by, that raised an error of another kind."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return module.partition(".")[0] in ("hydra", "omegaconf", "yaml")


def _explain(error: BaseException, name: str) -> str:
    """Hydra's message as one line, with the nearest name that exists."""
    from lmlab.config import nearest
    from lmlab.help import options

    text = str(error)
    if isinstance(error, LabError):
        return text
    match = re.search(r"Could not override '([^']+)'", text)
    if GROUP_WANTS_A_NAME in text or (match and name == "train" and options(conf_dir(), match[1])):
        return _no_option(name)
    if text.startswith("LexerNoViableAltException"):
        said = text.partition(":")[2].splitlines()[0].strip()
        return f"{said}: Hydra cannot read this; put its value into quotes ('key=\"value\"')"
    if match:
        return f"unknown key {match[1]}{nearest(match[1], _known_keys(name))}"
    found = (
        r"Could not find '(hydra(?:/\w+)+|[^'/]+)/([^']+)'\s+"
        r"Available options in '[^']+':((?:\s+\S+)*)"
    )
    if match := re.search(found, text):
        group, wrong, offered = match[1], match[2], match[3].partition("Config search path")[0]
        offers = offered.split() if group.startswith("hydra/") else options(conf_dir(), group)
        if extra := EXTRAS.get((group, wrong)):
            return f'{group}={wrong} needs an extra: pip install "lmlab[{extra}]"'
        if offers:
            return f"{group}={wrong}: no such option{nearest(wrong, offers)} ({', '.join(offers)})"
    return " ".join(text.split("\nSee https")[0].split())


def _no_option(name: str) -> str:
    """The argument that gives a group something else than a name, such as model=null."""
    from lmlab.config import nearest
    from lmlab.help import options

    for argument in sys.argv[1:]:
        key, _, value = argument.partition("=")
        offers = options(conf_dir(), key) if value else []
        if offers and name != "train":  # the others have no groups
            return f"unknown key {key}{nearest(key, _known_keys(name))}"
        if offers and value not in offers:
            return f"{argument}: no such option ({', '.join(offers)}); or leave it out"
    return "a group takes the name of an option"


GROUP_WANTS_A_NAME = "Config group override must be a string"

# What Hydra finds only if a plugin is installed.
EXTRAS = {
    ("hydra/launcher", "joblib"): "sweep",
    ("hydra/launcher", "submitit_local"): "slurm",
    ("hydra/launcher", "submitit_slurm"): "slurm",
    ("hydra/launcher", "ray"): "ray",
}


def _known_keys(name: str) -> list[str]:
    """Every key of a command's config, composed with the options on the command line, also with
    those of a --config-dir."""
    from hydra._internal.utils import get_args_parser
    from omegaconf import OmegaConf

    from lmlab.config import keys
    from lmlab.help import options

    typed = [argument.partition("=") for argument in sys.argv[1:] if name == "train"]
    own = get_args_parser().parse_known_args(sys.argv[1:])[0].config_dir
    folders = [conf_dir(), *([Path(own).absolute()] if own else [])]
    choices = [
        f"{group}={option}"
        for group, _, option in typed
        if any(option in options(folder, group) for folder in folders)
    ]
    quoted = [str(folder).replace("'", "\\'") for folder in folders[1:]]
    choices += [f"hydra.searchpath=['file://{folder}']" for folder in quoted]
    return list(keys(OmegaConf.to_container(composed(name, choices), resolve=False)))
