"""Hydra's errors in one line, with what would work."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.config.slips import apart_from_value, as_override, called_here, nearest
from lmlab.config.stored import conf_dir
from lmlab.config.words.compose import composed, options, shown_few
from lmlab.config.words.hydra_inside import args_parser
from lmlab.config.words.python_words import in_grammar
from lmlab.errors import LabError, is_too_long

if TYPE_CHECKING:
    from omegaconf import DictConfig


def is_explained(error: BaseException) -> bool:
    """Whether `explain` knows what to say of an error."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    known = (LabError, HydraException, OmegaConfBaseException)
    return isinstance(error, known) or is_too_long(error) or _raised_by_hydra(error)


def _raised_by_hydra(error: BaseException) -> bool:
    """Whether it was Hydra, or what of Python's own it called, that raised an error of another
    kind: no package but Hydra's has a part in it after the last line of ours."""
    packages = []
    trace = error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__"))
        is_ours = module.startswith(("lmlab.", "hydra_plugins.lmlab_"))
        packages.append("lmlab" if is_ours else module.partition(".")[0])
        trace = trace.tb_next
    ours = max((i for i, name in enumerate(packages) if name == "lmlab"), default=-1)
    since = {name for name in packages[ours + 1 :] if name not in sys.stdlib_module_names}
    return bool(since) and since <= READS_CONFIGS


READS_CONFIGS = {"hydra", "omegaconf", "yaml", "antlr4"}


def explain(error: BaseException, name: str, words: list[str]) -> str:
    """An error's message as one line, with the nearest name that exists.

    `words` are what was typed behind the command's `name`.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    text = str(error)
    if isinstance(error, LabError):
        flag = re.fullmatch(r"unrecognized arguments: (--?\S+).*", text)
        return _flag_for_a_key(flag[1], name, words) if flag else text
    if is_too_long(error):
        assert isinstance(error, OSError)
        return f"{_word_of(error.filename, words)}: a name longer than the file system takes"
    if isinstance(error, RecursionError) or "maximum recursion depth" in text:
        deep = [word for word in words if word.count("[") + word.count("{") + word.count(".") > 50]
        return f"{deep[0] if deep else 'the config'}: it is nested too deep"
    if match := re.search(r"Error parsing override '(.*)'\s.*(?:Range|Choice|Interval)Sweep", text):
        return f"{match[1]}: a sweep within a sweep is not taken; write its values one by one"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        text = f"{type(error).__name__}: {text}"
    elif not text:
        text = f"Hydra cannot compose the config ({type(error).__name__})"
    if match := re.search(r"Error parsing override '([^=]*)'\s+missing EQUAL", text):
        together = apart_from_value(match[1], words)
        advice = f"write it without spaces, {together}" if together else "a word is key=value"
        return f"{match[1]}: {advice}"
    if match := re.search(r"Ambiguous value for argument '([^']*)'", text):
        key, _, values = match[1].partition("=")
        return f"{match[1]}: several values are a sweep, so give -m too; a list is {key}=[{values}]"
    match = re.search(r"Could not override '([^']+)'", text)
    if GROUP_WANTS_A_NAME in text or (
        match and name == "train" and options([conf_dir()], match[1])
    ):
        return _no_option(name, words)
    if unread := re.search(r"LexerNoViableAltException: *(.*)", text):
        word = unread[1].strip()
        return f"{word}: Hydra cannot read this; put its value into quotes ('key=\"value\"')"
    if match:
        unknown = f"unknown key {match[1]}"
        if match[1].startswith("hydra"):  # Hydra's own
            return f"{unknown}; to add one to Hydra's own: ++{match[1]}…"
        with suppress(HydraException, OmegaConfBaseException):  # a file that never composes
            known = _known_keys(name, words)
            near = _not_in_every_option(match[1], words)
            return near or unknown + _meant(match[1], known)
    if "hydra.mode changed during config composition" in text:  # since Hydra 1.4
        return "a file that is chosen sets hydra.mode=MULTIRUN: give -m too"
    slashed = r"Invalid Defaults List override '([^':]+)/([^'/:]+): ([^']+)'"
    if match := re.search(slashed, text):  # since Hydra 1.4
        group, folder, option = match.groups()
        return (
            f"{' '.join(text.split())} Where {folder}/{option} is an option of {group}: "
            f"override {group}: [{folder}/{option}]"
        )
    no_option = (
        r"Could not find '(hydra(?:/\w+)+|[^'/]+)/([^']*)'\s+"
        r"Available options in '[^']+':((?:\s+\S+)*)"
    )
    if match := re.search(no_option, text):
        group, wrong, offered = match[1], match[2], match[3].partition("Config search path")[0]
        offers = offered.split() if group.startswith("hydra/") else options([conf_dir()], group)
        if instead := GONE.get((group, wrong)):
            return f"{group}={wrong} is gone; {instead}"
        if extra := EXTRAS.get((group, wrong)):
            return f'{group}={wrong} needs an extra: pip install "lmlab[{extra}]"'
        if offers:
            if inside := [option for option in offers if option.startswith(f"{wrong}/")]:
                return f"{group}={wrong} is a folder of options: {', '.join(inside)}"
            return f"{group}={wrong}: no such option{nearest(wrong, offers)} ({shown_few(offers)})"
    plugin = r"Unknown plugin class : 'hydra_plugins\.hydra_(\w+)_launcher\."
    if (match := re.search(plugin, text)) and (extra := EXTRAS.get(("hydra/launcher", match[1]))):
        chosen = [word for word in words if word.startswith("hydra/launcher=")]
        return f'{"".join(chosen[-1:])} needs an extra: pip install "lmlab[{extra}]"'
    return " ".join(text.split("\nSee https")[0].split())


def _meant(key: str, known: list[str]) -> str:
    """`; did you mean …?` with the key that others call so, or that looks like it."""
    ours = called_here(key)
    return f"; did you mean {ours}?" if ours in known else nearest(key, known)


def _flag_for_a_key(flag: str, name: str, words: list[str]) -> str:
    """What to say of `--lr=0.1`."""
    key, value = as_override(flag, words)
    known = _known_keys(name, words)
    whole = key if key in known else called_here(key)
    if whole not in known:
        whole = re.sub(r"; did you mean (.*)\?", r"\1", nearest(key, known))
    if not whole:
        return f"{flag}: no such flag; --help lists them all"
    return f"{flag}: keys have no dashes; write {whole}={value or '…'}"


def _not_in_every_option(key: str, words: list[str]) -> str | None:
    """What to say of a key that one of the options has and another has not: one of those that are
    varied, or one that a named sweep, which varies the key, is not made for."""
    from lmlab.config.check import keys
    from lmlab.config.origins import file_that_varies, shown

    typed = dict(argument.partition("=")[::2] for argument in words if "=" in argument)
    group = key.partition(".")[0]
    chosen = typed.get(group, "").split(",")
    sweep = typed.get("sweep", "")
    if key not in typed and sweep and chosen != [""]:
        path = file_that_varies(key, sweep, config_dirs(words))
        if path is not None:
            choice = f"{group}={typed[group]}"
            return (
                f"sweep={sweep} varies {key} ({shown(path)}), which {choice} does not have: "
                f"leave {choice} out, or give the axes that you want by -m, without sweep="
            )
    offers = options([conf_dir()], group)
    for option in chosen if len(chosen) > 1 else []:
        if option in offers and key not in keys(
            _plain(_composed_with([f"{group}={option}"], words))
        ):
            return (
                f"unknown key {key}: {group}={option} does not have it; give it to the options "
                "that do, in a command of their own"
            )
    return None


def _word_of(filename: object, words: list[str]) -> str:
    """The argument that a file's name comes from."""
    for word in words:
        value = word.partition("=")[2].strip("'\"") or word
        if len(value) > 100 and (value[:200] in str(filename) or str(filename) in value):
            return word
    return str(filename)


def _no_option(name: str, words: list[str]) -> str:
    """The argument that gives a group something else than a name, such as model=null."""
    for argument in words:
        key, _, value = argument.partition("=")
        offers = options([conf_dir()], key) if key and value else []
        if offers and name != "train":  # the others have no groups
            return f"unknown key {key}{nearest(key, _known_keys(name, words))}"
        if offers and value not in offers:
            return f"{argument}: no such option ({', '.join(offers)}); or leave it out"
    return "a group takes the name of an option"


GROUP_WANTS_A_NAME = "Config group override must be a string"

# What Hydra finds only if a plugin is installed.
GONE = {("hydra/launcher", "together"): "hydra/launcher=local trains one job on each core"}
EXTRAS = {
    ("hydra/launcher", "joblib"): "sweep",
    ("hydra/launcher", "submitit_local"): "slurm",
    ("hydra/launcher", "submitit_slurm"): "slurm",
    ("hydra/launcher", "ray"): "ray",
}


def _known_keys(name: str, words: list[str]) -> list[str]:
    """Every key of a command's config, composed with the options on the command line, also with
    those of a --config-dir."""
    from lmlab.config.check import keys

    typed = [argument.partition("=") for argument in words if name == "train"]
    choices = [
        f"{group}={option}"
        for group, _, option in typed
        if option in options(config_dirs(words), group)
    ]
    known = keys(_plain(_composed_with(choices, words, name)))
    return [key for key in known if not key.endswith("_")]  # _target_ is Hydra's own


def config_dirs(words: list[str]) -> list[Path]:
    """conf/, and the folder of --config-dir."""
    own = args_parser().parse_known_args(words)[0].config_dir
    return [conf_dir(), *([Path(own).absolute()] if own else [])]


def _composed_with(choices: list[str], words: list[str], name: str = "train") -> DictConfig:
    """A command's config with some options, which may stand in a --config-dir."""
    own = [f"file://{folder}" for folder in config_dirs(words)[1:]]
    return composed(name, [*choices, f"hydra.searchpath={in_grammar(own)}"] if own else choices)


def _plain(cfg: DictConfig) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(cfg, resolve=False)
