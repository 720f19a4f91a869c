"""The routes of the tab: they answer GET alone, with what lies below one folder."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from lmlab.sweeps.board.answering import Answers, RefusedError
from lmlab.sweeps.board.laws import Laws
from lmlab.sweeps.board.scan import Scan, SeenSweep
from lmlab.sweeps.board.single.of_runs import OfRuns

PREFIX = "/data/plugin/lmlab/"  # where TensorBoard has the routes of a plugin of this name
FRONTEND = Path(__file__).parent / "frontend"
KINDS = {".js": "application/javascript", ".css": "text/css"}
FILES = {path.name: path for path in FRONTEND.iterdir() if path.suffix in KINDS}
HEADERS = [("Cross-Origin-Resource-Policy", "same-origin")]


class Board(base_plugin.TBPlugin):
    """A WSGI application, and the tab whose questions it answers."""

    plugin_name = "lmlab"

    def __init__(self, scan: Scan, flags: Any = None):
        """`flags` are TensorBoard's: its host, and whether it is open to others."""
        self._scan = scan
        self._answers = Answers()
        self._laws = Laws()
        self._of_runs = OfRuns(scan)
        self._is_open = bool(getattr(flags, "bind_all", False))
        host = getattr(flags, "host", None)
        self._hosts = {"localhost", socket.gethostname().lower(), str(host or "").lower()} - {""}

    def get_plugin_apps(self) -> dict[str, Callable[..., Iterable[bytes]]]:
        return {"/*": self}

    def is_active(self) -> bool:
        """Whether there is a sweep, or more than one run."""
        return self._scan.has_runs()

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        return base_plugin.FrontendMetadata(
            es_module_path="/index.js", tab_name="Sweeps", disable_reload=True
        )

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        request = wrappers.Request(environ)
        try:
            response = self._answer(request)
        except RefusedError as refused:
            code, reason = refused.args
            response = http_util.Respond(request, reason, "text/plain", code, headers=HEADERS)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            # werkzeug takes it away from a 304, and TensorBoard's validator warns where it is not.
            if not any(name.lower() == "content-type" for name, _ in headers):
                headers = [*headers, ("Content-Type", "application/json")]
            return start_response(status, headers, exc_info)

        answer: Iterable[bytes] = response(environ, start)
        return answer

    def _answer(self, request: wrappers.Request) -> wrappers.Response:
        if request.method not in ("GET", "HEAD"):
            raise RefusedError(405, "nothing can be changed here")
        self._check_host(request)
        name = request.path.removeprefix(PREFIX)
        if name in FILES:
            return self._respond(request, FILES[name].read_bytes(), KINDS[FILES[name].suffix])
        if name == "vega.js":
            from lmlab.sweeps.figures.vega_script import vega_script

            script = vega_script().encode()
            return self._respond(request, script, "application/javascript", 86_400)
        routes: dict[str, Callable[[Mapping[str, str]], bytes]] = {
            "sweeps": self._sweeps,
            "sweep": partial(self._of_sweep, "sweep"),
            "figures": partial(self._of_sweep, "figures"),
            "jobs": self._jobs,
            "run": self._of_runs.run,
            "side": self._of_runs.side,
            "curves": self._of_runs.curves,
            "kept": self._of_runs.kept,
        }
        if name == "picture":
            picture = self._of_runs.picture(request.args)
            seconds_kept = 3600 if "version" in request.args else 0
            return self._respond(request, picture, "image/png", seconds_kept)
        if name not in routes:
            raise RefusedError(404, "there is no such page")
        return self._respond(request, routes[name](request.args))

    def _check_host(self, request: wrappers.Request) -> None:
        """Somebody else's page may have its own name lead here, and would read along."""
        host = request.host.lower().rpartition("@")[2]
        name = host.partition("]")[0].strip("[") if "[" in host else host.partition(":")[0]
        if self._is_open or name in self._hosts:
            return
        try:
            ipaddress.ip_address(name)
        except ValueError:
            reason = f"this board is not called {name[:100]}; started with --bind_all it answers"
            raise RefusedError(403, reason) from None

    def _respond(
        self,
        request: wrappers.Request,
        body: bytes,
        kind: str = "application/json",
        seconds_kept: int = 0,
    ) -> wrappers.Response:
        """The answer, or that it is the one that the page has."""
        tag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
        headers = [*HEADERS, ("ETag", tag)]
        if request.headers.get("If-None-Match") == tag:
            return http_util.Respond(request, b"", kind, 304, headers=headers)
        return http_util.Respond(request, body, kind, expires=seconds_kept, headers=headers)

    def _sweeps(self, _: Mapping[str, str]) -> bytes:
        sweeps = self._scan.sweeps()
        version = "".join(sweep.version for sweep in sweeps.values())

        def make() -> dict[str, Any]:
            from lmlab.sweeps.board.answers import listed

            return listed(sweeps.values(), self._scan.is_cut)

        return self._answers.made(("sweeps",), version, make)

    def _jobs(self, asked: Mapping[str, str]) -> bytes:
        from lmlab.sweeps.board.answers import jobs_of

        sweep = self._seen(asked.get("name", ""))
        about = asked.get("setting", ""), asked.get("page", "")
        key = ("jobs", sweep.name, *about)
        return self._answers.made(key, sweep.version, lambda: jobs_of(sweep, *about))

    def _seen(self, name: str) -> SeenSweep:
        sweep = self._scan.sweeps().get(name)
        if sweep is None:
            raise RefusedError(404, "there is no such sweep any more")
        return sweep

    def _of_sweep(self, kind: str, asked: Mapping[str, str]) -> bytes:
        from lmlab.sweeps.board.answers import about_sweep, figures_of
        from lmlab.sweeps.board.asking import Question

        sweep, question = self._seen(asked.get("name", "")), Question.of(asked)
        about = about_sweep if kind == "sweep" else figures_of
        return self._answers.made(
            (kind, sweep.name, *question),
            sweep.version + self._laws.version_of(sweep),
            lambda: about(sweep, question, self._laws),
        )


class BoardLoader(base_plugin.TBLoader):
    """Gives the tab a scan that others read, too."""

    plugin_name = Board.plugin_name

    def __init__(self, scan: Scan):
        self._scan = scan

    def load(self, context: base_plugin.TBContext) -> Board:
        return Board(self._scan, context.flags)
