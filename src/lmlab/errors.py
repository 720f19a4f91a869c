"""The errors that a user is meant to read."""

import errno
import os
import re

LONGEST_WORD = 256  # characters of what an error shows


def one_line(text: str) -> str:
    r"""`text` as one line that a terminal shows as it is: \n and other controls are spelled, and a
    word without end is cut."""
    text = re.sub(rf"\S{{{LONGEST_WORD},}}", lambda word: f"{word[0][:LONGEST_WORD]}…", text)
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def first_line(error: BaseException, most: int | None = None) -> str:
    """What an error says first, in at most so many characters; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def typed_line(error: BaseException, most: int | None = None) -> str:
    """The same behind the error's type: `KeyError: 'seed'`."""
    return f"{type(error).__name__}: {first_line(error, most) if str(error) else ''}"


class LabError(Exception):
    """Something the user can put right.

    The commands print its message on one line, without a traceback, and exit with status 2; so the
    message names the config key, the value that was given and what would be accepted.
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message alone, unless HYDRA_FULL_ERROR=1 asks for more."""
        if shows_tracebacks():
            raise NotImplementedError  # IPython then shows what it shows of any error
        return [f"{type(self).__name__}: {self}"]


class DivergedError(LabError):
    """A loss, or a weight, that became infinite or NaN in training: a result of the config."""


def is_too_long(error: BaseException) -> bool:
    """Whether a name was longer than the file system takes, wherever it was looked up."""
    return isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG


def shows_tracebacks() -> bool:
    """Whether the user asked for tracebacks, as one asks Hydra."""
    return os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
