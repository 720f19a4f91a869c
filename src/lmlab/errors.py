"""The one error that a user is meant to read."""

import os


def one_line(text: str) -> str:
    r"""`text` as one line that a terminal shows as it is: \n and other controls are spelled."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


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


def shows_tracebacks() -> bool:
    """Whether the user asked for tracebacks, as one asks Hydra."""
    return os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
