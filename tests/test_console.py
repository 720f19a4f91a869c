"""What reaches a run's log, and how commands are called in hints."""

import logging
import warnings

from lmlab.console import command, logged_to, quiet_libraries


def test_warnings_of_libraries_are_kept_in_the_log_and_shown_as_before(tmp_path, capfd):
    show = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown = []
        warnings.showwarning = lambda message, *rest: shown.append(str(message))
        for _ in range(2):  # as a second run in one process
            quiet_libraries()
        with logged_to(tmp_path / "log"):
            warnings.warn("a gradient is odd", UserWarning, stacklevel=1)
            logging.getLogger("lightning.pytorch.trainer").warning("lightning warns")
        warnings.warn("after the run", UserWarning, stacklevel=1)
    assert warnings.showwarning is show
    log = (tmp_path / "log").read_text()
    assert "WARNING UserWarning: a gradient is odd (" in log
    assert "WARNING lightning warns" in log
    assert "after the run" not in log
    assert shown == ["a gradient is odd", "after the run"]
    assert capfd.readouterr().err == "lightning warns\n"


def test_a_hint_is_what_was_typed(monkeypatch):
    for typed, hint in (
        ("scripts/train.py", "scripts/generate.py"),
        ("bin/lmlab", "lmlab generate"),
    ):
        monkeypatch.setattr("sys.argv", [typed])
        assert command("generate").endswith(hint)
