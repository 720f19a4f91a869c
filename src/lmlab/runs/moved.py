"""A text that has moved since a run was trained on it."""

from __future__ import annotations

from typing import Any

from lmlab.console import say
from lmlab.errors import LabError
from lmlab.runs.directory import CONFIG, RunDirectory


def keep_corpus(run: RunDirectory, corpus: dict[str, Any], sha256: str) -> None:
    """Put into a run's config where the text that it was trained on, of this digest, is now."""
    try:
        config = run.config
        if config["corpus"] == corpus or run.record.get("corpus_sha256") != sha256:
            return
        with run.locked():
            run.store({**config, "corpus": corpus})
    except (LabError, KeyError) as error:
        say(f"{run.path / CONFIG} still says where its text was: {error}")
        return
    say(f"{run.path / CONFIG} says where its text is now")
