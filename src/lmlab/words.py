"""The words of a command line, taken apart before Hydra reads them."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

from lmlab.errors import LabError

# What Hydra would take, though a run's directory is not Hydra's.
UNUSED = ("hydra.run.dir", "hydra.sweep.subdir", "hydra.job.chdir")
# One for all jobs of a sweep.
OF_A_SWEEP = ("sweep.", "output_dir")


@dataclass(frozen=True)
class Words:
    """What was typed: flags and overrides in any order, and keys whose value is taken as it is."""

    flags: list[str]  # with their values
    overrides: list[str]
    given: dict[str, str]  # key -> value, outside Hydra's grammar
    is_multirun: bool

    @classmethod
    def parse(cls, typed: list[str], texts: tuple[str, ...]) -> Words:
        """`texts` are the keys whose value is taken as it was typed.

        Raises:
            LabError: for a flag that does not exist or lacks its value.
        """
        from hydra._internal.utils import get_args_parser

        def refuse(message: str) -> NoReturn:
            raise LabError(message)

        pairs = [word.partition("=") for word in typed]
        given = {key: value for key, equals, value in pairs if equals and key in texts}
        words = [word for word in typed if word.partition("=")[0] not in given]
        parser = get_args_parser()
        parser.error = refuse  # type: ignore[method-assign]
        # Hydra's own way of parsing wants all overrides in one row.
        args: Any = parser.parse_intermixed_args(words)
        left = Counter(args.overrides)
        flags = []
        for word in words:
            if left[word]:
                left[word] -= 1
            else:
                flags.append(word)
        pairs = [word.partition("=") for word in args.overrides]
        named = any(key == "sweep" and value for key, _, value in pairs)
        mode = any(key.lstrip("+") == "hydra.mode" and "MULTI" in value for key, _, value in pairs)
        return cls(flags, args.overrides, given, args.multirun or named or mode)

    def check(self, command: str) -> None:
        """What Hydra would take, and then nothing would use.

        Raises:
            LabError: saying what to say instead.
        """
        trains = command == "train"
        for word in self.overrides:
            key = word.lstrip("+~").partition("=")[0]
            # Lightning adds hydra.run.dir to what it starts a helping process by.
            if key in UNUSED and "LOCAL_RANK" not in os.environ:
                instead = (
                    "say run_dir=…, or output_dir=… and name=…" if trains else "nothing is kept"
                )
                raise LabError(f"{key} is not used: {instead}")
        if not self.is_multirun:
            return
        if not trains:
            raise LabError(f"{command} takes one run each time: leave out -m (or hydra.mode)")
        if "run" in self.given:
            raise LabError(
                f"run={self.given['run']}: one run goes on by itself, without -m or sweep=; a "
                "sweep goes on by the command that began it"
            )
        for word in self.overrides:
            key = word.lstrip("+").partition("=")[0]
            if key in self.swept and key.startswith(OF_A_SWEEP):
                raise LabError(f"{word}: a sweep has one value of {key}")

    @property
    def for_hydra(self) -> list[str]:
        """What Hydra is to read: a multirun is given a name for its sweep."""
        if not self.is_multirun or any(w.startswith("sweep.name=") for w in self.overrides):
            return [*self.flags, *self.overrides]
        return [*self.flags, *self.overrides, f"sweep.name='{self.sweep_name}'"]

    @cached_property
    def swept(self) -> set[str]:
        """The keys that have several values."""
        return {w.partition("=")[0].lstrip("+") for w in self.overrides if _is_sweep(w)}

    @property
    def sweep_name(self) -> str:
        """A name that the same command has again: what is varied, and what is fixed to which value.

        The values of an axis are not in it, so that more of them join the sweep that is there.
        """
        from lmlab.runs import path_name

        elsewhere = ("hydra", "sweep.", "output_dir", "run_dir", "resume")
        named: list[str] = []
        varied: list[str] = []
        fixed: list[str] = []
        for word in sorted(self.overrides):
            key, equals, value = word.lstrip("+").partition("=")
            if key == "sweep":
                named.append(value)
            elif key in self.swept:
                varied.append(key)
            elif equals and not key.startswith(elsewhere):
                fixed.append(f"{key}={value}")
        return path_name(",".join([*named, *varied, *fixed])) or "sweep"


def _is_sweep(word: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(word).is_sweep_override()
    except HydraException:
        return False  # Hydra will say what is wrong with it


def one_line(text: str) -> str:
    r"""`text` as one line that a terminal shows as it is: \n and other controls are spelled."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
