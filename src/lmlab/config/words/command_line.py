"""The command line, split up before Hydra reads it."""

from __future__ import annotations

import hashlib
import re
from argparse import ArgumentParser
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lmlab.config.words.hydra_inside import args_parser
from lmlab.errors import LabError
from lmlab.files import path_name

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

# What Hydra would take, though a run's directory is not Hydra's.
UNUSED = ("hydra.run.dir", "hydra.sweep.subdir", "hydra.job.chdir")
# One for all jobs of a sweep.
OF_A_SWEEP = ("sweep.", "output_dir")
# Where a sweep is kept, or how it is run: the same sweep all the same.
NOT_IN_NAME = ("hydra", "sweep.", "output_dir", "run_dir", "resume", "pause_at", "dry_run")
LONGEST_NAME = 24  # characters of a sweep's name that follows from its command


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise LabError(message)


@dataclass(frozen=True)
class CommandLine:
    """What was typed: flags and overrides in any order, and keys whose value is taken literally."""

    flags: list[str]  # with their values
    overrides: list[str]
    given: dict[str, str]  # key -> value, outside Hydra's grammar
    is_multirun: bool
    zips: dict[str, str]  # name -> zip(…), of keys that go together: no grammar of Hydra's yet

    @classmethod
    def parse(cls, typed: list[str], texts: tuple[str, ...]) -> CommandLine:
        """`texts` are the keys whose value is taken as it was typed.

        Raises:
            LabError: for a flag that does not exist or lacks its value.
        """
        pairs = [argument.partition("=") for argument in typed]
        given = {key: value for key, equals, value in pairs if equals and key in texts}
        others = [argument for argument in typed if argument.partition("=")[0] not in given]
        # Hydra's own way of parsing wants all overrides in one row.
        args: Any = _Parser(add_help=False, parents=[args_parser()]).parse_intermixed_args(others)
        left = Counter(args.overrides)
        flags = []
        for argument in others:
            if left[argument]:
                left[argument] -= 1
            else:
                flags.append(argument)
        pairs = [override.partition("=") for override in args.overrides]
        named = any(key == "sweep" and value for key, _, value in pairs)
        mode = any(key.lstrip("+") == "hydra.mode" and "MULTI" in value for key, _, value in pairs)
        is_multirun = args.multirun or named or mode
        together = [(key.lstrip("+"), value) for key, _, value in pairs if is_zip(value)]
        zips = dict(together)
        if len(zips) < len(together):
            twice = Counter(name for name, _ in together).most_common(1)[0][0]
            raise LabError(f"{twice}=zip(…) is given twice: leave one out")
        overrides = [w for w in args.overrides if not is_zip(w.partition("=")[2])]
        if not args.help and "run" in texts and "run" not in given:
            runs = [word for word in overrides if is_run(word)]
            if len(runs) == 1:  # typed without a key
                given["run"] = runs[0]
                overrides.remove(runs[0])
        if zips and not is_multirun:
            raise LabError(f"{next(iter(zips))}=zip(…) is many runs: give -m too")
        if is_multirun and "from" in given:  # several parents may be an axis, in Hydra's grammar
            overrides = [*overrides, f"from={given.pop('from')}"]
        return cls(flags, overrides, given, is_multirun, zips)

    def check(self, command: str) -> None:
        """Refuse what Hydra would accept and nothing would use.

        Raises:
            LabError: with what to give instead.
        """
        trains = command == "train"
        keys_of_each = self._keys  # refuses a sweep within a value
        for override in self.overrides:
            key = override.lstrip("+~").partition("=")[0]
            if key in UNUSED:
                instead = (
                    "give run_dir=…, or output_dir=… and name=…" if trains else "nothing is kept"
                )
                raise LabError(f"{key} is not used: {instead}")
            if key == "hydra.searchpath" and override in self._parsed:
                _check_searchpath(self._parsed[override].value())
        if not self.is_multirun:
            return
        if not trains:
            raise LabError(f"{command} takes one run each time: leave out -m (or hydra.mode)")
        for name in self.zips:
            if not name.isidentifier():
                raise LabError(
                    f"{name}=zip(…): keys that go together have a plain name, as in "
                    "size=zip(model.n_layer=[1,2],model.n_embd=[32,64])"
                )
        if "run" in self.given:
            raise LabError(
                f"run={self.given['run']}: one run goes on by itself, without -m or sweep=; a "
                "sweep goes on by the command that began it"
            )
        for override, keys in keys_of_each.items():
            for key in sorted(keys):
                if key in self.swept and key.startswith(OF_A_SWEEP):
                    raise LabError(f"{override}: a sweep has one value of {key}")
        self._check_zips()

    @property
    def asks_help(self) -> bool:
        """Whether it asks for help, and for nothing of Hydra's beside it."""
        args = args_parser().parse_args(self.flags)
        return args.help and not (args.cfg or args.info or args.shell_completion or args.multirun)

    @property
    def asks_hydra(self) -> bool:
        """Whether there is something of Hydra's own in it: a flag, or where else configs are."""
        others = set(self.flags) - {"-m", "--multirun"}
        return bool(others) or any("hydra.searchpath" in word for word in self.overrides)

    @property
    def for_hydra(self) -> list[str]:
        """What Hydra is to read: a multirun is given a name for its sweep."""
        arguments = [*self.flags, *self.overrides]
        flags = {"-m", "--multirun"} & set(self.flags)
        if (
            self.is_multirun and not flags and not any("hydra.mode=" in w for w in arguments)
        ):  # a sweep's file says so, which Hydra 1.4 does not take
            arguments.append("hydra.mode=MULTIRUN")
        if self.is_multirun and not any(w.startswith("sweep.name=") for w in self.overrides):
            arguments.append(f"sweep.name='{self.sweep_name}'")
        for name, values in self.zips.items():
            quoted = values.replace("\\", "\\\\").replace('"', '\\"')
            arguments.append(f'++hydra.sweeper.params.{name}="{quoted}"')
        return arguments

    @property
    def parent(self) -> str | None:
        """The one run whose checkpoint this, or each job, begins from."""
        if "from" in self.given:
            return self.given["from"]
        parents = [override for override in self.overrides if override.startswith("from=")]
        if not parents or "from" in self.swept:
            return None
        return parents[0].partition("=")[2].strip("'\"")

    def _check_zips(self) -> None:
        """Refuse a key of those that go together that is given once more."""
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        from lmlab.config.words.branches import read_branch

        for name, values in self.zips.items():
            together: set[str] = set()
            with suppress(HydraException):  # the sweeper will say what is wrong with it
                together = read_branch(OverridesParser.create(), name, values, None).keys
            for override, keys in self._keys.items():
                for key in sorted(keys & together):
                    raise LabError(f"{override}: {name}=zip(…) has {key}, too; leave one out")

    @cached_property
    def _parsed(self) -> dict[str, Override]:
        """The overrides that Hydra can read; it will say what is wrong with the others.

        Raises:
            LabError: for what Hydra reads and cannot use.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        from lmlab.config.words.grammar import parse

        parser, parsed = OverridesParser.create(), {}
        for word in self.overrides:
            with suppress(HydraException):
                parsed[word] = parse(parser, word)
        return parsed

    @cached_property
    def _keys(self) -> dict[str, set[str]]:
        """The keys that each override sets."""
        from lmlab.config.words.grammar import keys_set_by

        return {word: keys_set_by(override) for word, override in self._parsed.items()}

    @cached_property
    def swept(self) -> set[str]:
        """The keys that have several values."""
        return {key for word in self._parsed if self._is_sweep(word) for key in self._keys[word]}

    def _is_sweep(self, word: str) -> bool:
        return word in self._parsed and self._parsed[word].is_sweep_override()

    @property
    def sweep_name(self) -> str:
        """A name that the same command has again: what is varied, and what is fixed to which value.

        The values of an axis are not in it, so that more of them join the sweep that is there. It
        stands before the name of every run in TensorBoard, so a long one is shortened to what is
        varied, the experiment, and a hash of the rest; unless the sweep is there under the long
        name, which it had before.
        """
        named, varied, fixed = self._parts()
        text = ",".join([*named, *varied, *fixed])
        whole = path_name(text) or "sweep"
        before = Path(self.fixed_value("output_dir") or "outputs") / "sweeps" / whole
        if len(whole) <= LONGEST_NAME or before.is_dir():
            return whole
        telling = [key for key in varied if key != "seed"] or varied
        keys = dict.fromkeys(key.rpartition(".")[2] for key in telling)
        experiments = [word.partition("=")[2] for word in fixed if word.startswith("experiment=")]
        short = path_name(",".join([*named, *keys, *experiments])) or "sweep"
        digits = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:6]
        room = LONGEST_NAME - len(digits) - 1
        if len(short) > room:
            short = short[: room + 1].rpartition(",")[0] or short[:room]
        return f"{short.strip('-.,')}-{digits}"

    def _parts(self) -> tuple[list[str], list[str], list[str]]:
        """The named sweeps, the keys that are varied, and those that are fixed with their values:
        what tells this sweep from others."""
        named: list[str] = []
        varied: list[str] = list(self.zips)
        fixed: list[str] = []
        for override in sorted(self.overrides):
            key, equals, value = override.lstrip("+").partition("=")
            if key == "sweep":
                named.append(value)
            elif self._is_sweep(override):
                varied.append(key)
            elif equals and not key.startswith(NOT_IN_NAME):
                fixed.append(f"{key}={value}")
        return named, varied, fixed

    def fixed_value(self, key: str) -> str:
        """The value that is given to a key, or nothing."""
        given = [word.partition("=")[2] for word in self.overrides if word.startswith(f"{key}=")]
        return given[-1].strip("'\"") if given else ""


def is_run(word: str) -> bool:
    """Whether a word without a key names a run: a directory, or `last`."""
    return "=" not in word and (re.fullmatch("last(:.*)?", word) is not None or Path(word).is_dir())


def is_zip(value: str) -> bool:
    """Whether it is the value of keys that go together: see `lmlab.config.words.axes`."""
    return value.lstrip().startswith("zip(")


def _check_searchpath(folders: Any) -> None:
    """Refuse a folder or a package of configs that is not there, of which Hydra only warns."""
    for word in folders if isinstance(folders, list) else ():
        scheme, _, place = str(word).rpartition("://")
        if scheme in ("", "file") and not Path(place).is_dir():
            raise LabError(f"hydra.searchpath=[{word}]: no such folder")
        if scheme == "pkg" and not _is_package(place.replace("/", ".").strip(".")):
            raise LabError(f"hydra.searchpath=[{word}]: no such package")


def _is_package(name: str) -> bool:
    try:
        return (files(name) / "__init__.py").is_file()  # as Hydra asks
    except (ImportError, TypeError, ValueError):
        return False
