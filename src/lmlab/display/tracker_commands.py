"""What shows or sends a run that a tracker has, for the end of the run to say; no tracker is
imported."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TRACKERS = "lmlab.display.trackers"


def tracker_commands(run: Path, loggers: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """For each tracker among a run's loggers: its name, and a command or an address."""
    for logger in loggers.values():
        target = logger.get("_target_") if isinstance(logger, dict) else None
        if target == f"{TRACKERS}.WandB":
            # One for each time that the run went on. What is online is there already.
            if parts := sorted((run / "wandb").glob("offline-run-*")):
                yield "wandb", f"wandb sync {shlex.join(map(str, parts))}"
        elif target == f"{TRACKERS}.MLflow":
            uri = logger.get("tracking_uri") or f"sqlite:///{(run.parent / 'mlflow.db').as_posix()}"
            is_address = uri.startswith(("http://", "https://"))
            yield "mlflow", uri if is_address else _mlflow_ui(uri)


def _mlflow_ui(uri: str) -> str:
    has_pages = find_spec("flask") is not None  # mlflow-skinny comes without
    needs = "" if has_pages else " (needs the whole package: pip install mlflow)"
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}{needs}"
