"""The one error that a user is meant to read."""


class LabError(Exception):
    """Something the user can put right.

    The commands print its message on one line, without a traceback, and exit with status 2; so the
    message names the config key, the value that was given and what would be accepted.
    """
