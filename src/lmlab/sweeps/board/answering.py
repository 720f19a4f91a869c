"""Answers that are kept until there is news, or refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from lmlab.errors import LabError

MOST_KEPT = 24  # answers; each may be a megabyte
PATIENCE = 0.15  # seconds that one who could have an older answer waits for the new one


class RefusedError(Exception):
    """A request that gets no answer, with the status and the reason."""


class Answer(NamedTuple):
    """An answer, and what it is the answer to."""

    version: str
    body: bytes
    made: float  # when, on the monotonic clock
    cost: float  # seconds


class Answers:
    """Those that were asked for last."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], Answer] = {}
        self._being_made: dict[tuple[str, ...], Future[Answer]] = {}
        self._changing, self._making = threading.Lock(), threading.Lock()

    def forget(self) -> None:
        with self._making, self._changing:
            self._kept.clear()

    def made(
        self,
        key: tuple[str, ...],
        version: str,
        make: Callable[[], dict[str, Any]],
        rest: float = 5,
    ) -> bytes:
        """An answer, made again where there is news; one that takes its time not at each of them,
        but after `rest` times that. Who asks meanwhile is not kept waiting for it: the answer of
        before is given, and the new one the next time.

        One is made at a time: there are training processes on this machine, too.
        """
        with self._changing:
            kept = self._kept.pop(key, None)
            if kept is not None:
                self._kept[key] = kept  # the last asked for is the last to go
                is_old = time.monotonic() - kept.made > rest * kept.cost
                if kept.version == version or not is_old:
                    return kept.body
            coming = self._being_made.get(key)
            if coming is None:
                coming = self._being_made[key] = Future()
                arguments = key, version, make, coming
                threading.Thread(target=self._make, args=arguments, daemon=True).start()
        try:
            return coming.result(None if kept is None else PATIENCE).body
        except TimeoutError:
            assert kept is not None
            return kept.body

    def _make(
        self,
        key: tuple[str, ...],
        version: str,
        make: Callable[[], dict[str, Any]],
        coming: Future[Answer],
    ) -> None:
        try:
            with self._making:
                began = time.monotonic()
                try:
                    content = make()
                except LabError as error:
                    content = {"problem": str(error)}
                body = as_json(content)
                answer = Answer(version, body, time.monotonic(), time.monotonic() - began)
                with self._changing:
                    self._kept[key] = answer
                    for oldest in list(self._kept)[:-MOST_KEPT]:
                        del self._kept[oldest]
                    del self._being_made[key]
            coming.set_result(answer)
        except BaseException as error:  # of a programmer's: for those who wait to raise
            with self._changing:
                self._being_made.pop(key, None)
            coming.set_exception(error)


def as_json(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False).encode()
