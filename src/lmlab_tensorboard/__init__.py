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
    """`lmlab.sweeps.board.plugin.Board`, made when something is asked."""

    plugin_name = "lmlab"

    def __init__(self, context: base_plugin.TBContext):
        self._folder, self._flags = context.logdir, context.flags
        self._making = threading.Lock()
        self._board: Any = None

    def get_plugin_apps(self) -> dict[str, Callable[..., Iterable[bytes]]]:
        if not self._folder:  # --logdir_spec names several folders instead, and runs otherwise
            return {}
        return {"/*": lambda environ, start_response: self._made()(environ, start_response)}

    def is_active(self) -> bool:
        return bool(self._folder) and self._made().is_active()  # TensorBoard logs an error

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        return base_plugin.FrontendMetadata(
            es_module_path="/index.js", tab_name="Sweeps", disable_reload=True
        )

    def _made(self) -> Any:
        with self._making:
            if self._board is None:
                from lmlab.sweeps.board.plugin import Board
                from lmlab.sweeps.board.scan import Scan

                self._board = Board(Scan(Path(self._folder).expanduser()), self._flags)
            return self._board
