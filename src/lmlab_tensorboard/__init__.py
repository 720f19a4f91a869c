"""The tab Sweeps, as TensorBoard finds it.

Whatever is raised while this module is imported ends every `tensorboard` of the environment, and
what it imports makes each start slower: so nothing of ours is imported before the first request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tensorboard.plugins import base_plugin


class SweepsPlugin(base_plugin.TBPlugin):
    """Everything below data/plugin/lmlab/; see `lmlab.sweeps.board.plugin`."""

    plugin_name = "lmlab"

    def __init__(self, context: base_plugin.TBContext, scan: Any = None):
        """`scan` sees what is shown, a `lmlab.sweeps.board.scan.Scan`; None: one of TensorBoard's
        log folder."""
        self._folder = Path(context.logdir).expanduser() if context.logdir else None
        self._flags, self._scan = context.flags, scan
        self._making = threading.Lock()
        self._board: Any = None

    def get_plugin_apps(self) -> dict[str, Callable[..., Iterable[bytes]]]:
        return {"/*": self._answer}

    def is_active(self) -> bool:
        """Whether there is a sweep, or more than one run. (An error is TensorBoard's to log.)"""
        return self._folder is not None and self._made().is_active()

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        return base_plugin.FrontendMetadata(
            es_module_path="/index.js", tab_name="Sweeps", disable_reload=True
        )

    def _answer(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        answer: Iterable[bytes] = self._made()(environ, start_response)
        return answer

    def _made(self) -> Any:
        with self._making:
            if self._board is None:
                from lmlab.sweeps.board.plugin import Board
                from lmlab.sweeps.board.scan import Scan

                self._board = Board(self._scan or Scan(self._folder or Path()), self._flags)
            return self._board


class SweepsLoader(base_plugin.TBLoader):
    """Gives the tab a scan that others read, too."""

    plugin_name = SweepsPlugin.plugin_name

    def __init__(self, scan: Any):
        self._scan = scan

    def load(self, context: base_plugin.TBContext) -> SweepsPlugin:
        return SweepsPlugin(context, self._scan)
