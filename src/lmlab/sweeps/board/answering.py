"""Answers that are kept until there is news, or refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from lmlab.errors import LabError

MOST_KEPT = 24  # answers; each may be a megabyte


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
        self._answering = threading.Lock()

    def forget(self) -> None:
        self._kept.clear()

    def made(
        self,
        key: tuple[str, ...],
        version: str,
        make: Callable[[], dict[str, Any]],
        rest: float = 5,
    ) -> bytes:
        """An answer, made again where there is news; one that takes its time not at each of them,
        but after `rest` times that.

        One is made at a time: there are training processes on this machine, too.
        """
        with self._answering:
            kept = self._kept.pop(key, None)
            began = time.monotonic()
            if kept is None or (kept.version != version and began - kept.made > rest * kept.cost):
                try:
                    content = make()
                except LabError as error:
                    content = {"problem": str(error)}
                body = as_json(content)
                kept = Answer(version, body, time.monotonic(), time.monotonic() - began)
            self._kept[key] = kept  # the last asked for is the last to go
            for oldest in list(self._kept)[:-MOST_KEPT]:
                del self._kept[oldest]
            return kept.body


def as_json(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False).encode()
