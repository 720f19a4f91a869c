"""Documents whose examples are run: what they show must be what comes out."""

import ast
import contextlib
import io
import os
import re
import signal
import threading
from typing import Any

import pytest

EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
OF_A_CLOCK = re.compile(  # and what is hashed of a whole config, which grows with the lab
    r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?|[\d,]+ tokens/s|\d+(\.\d+)? s\b|-[0-9a-f]{6,8}\b"
    r"|(?<=at step )\d+"
)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
LEFT_OUT = "…"  # a line that stands for any lines
OTHER_PROCESSOR = 0.02  # what training on another kind may change of a loss
INTERRUPTED_AFTER = 2.0  # seconds


def examples(markdown: str) -> list[tuple[str, str]]:
    """Every block of Python, with the block that follows it at once: what it shows."""
    return [(source, shown) for source, shown in EXAMPLE.findall(markdown)]


def run(source: str, names: dict[str, Any], interrupted: bool = False) -> str:
    """What a notebook would show below a cell: what is printed, then the last line's value, or the
    error. The names are kept. An interruption comes as Ctrl-C sends it."""
    *body, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        body, last = [*body, last], None
    printed = io.StringIO()
    timer = threading.Timer(INTERRUPTED_AFTER, os.kill, (os.getpid(), signal.SIGINT))
    with contextlib.redirect_stdout(printed):
        if interrupted:
            timer.start()
        try:
            exec(compile(ast.Module(body, []), "<example>", "exec"), names)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), "<example>", "eval"), names)
                if value is not None:
                    print(repr(value))
        except (Exception, KeyboardInterrupt) as error:
            print(f"{type(error).__name__}: {error}")
        finally:
            timer.cancel()
    return printed.getvalue()


def assert_shows(shown: str, came: str, exactly: bool = False) -> None:
    """What a document shows is what came, apart from what a clock decides.

    Numbers with a point may differ a little, as on another processor, unless they are to agree
    `exactly`.
    """
    parts = [[]]
    for line in _lines(shown):
        if line == LEFT_OUT:
            parts.append([])
        else:
            parts[-1].append(line)
    lines = _lines(came)
    assert len(lines) == len(parts[0]) or len(parts) > 1, came
    place = 0
    for n, part in enumerate(parts):
        is_last = n == len(parts) - 1
        starts = [place] if n == 0 else range(place, len(lines) - len(part) + 1)
        starts = [len(lines) - len(part)] if is_last and n else starts
        found = [s for s in starts if _same(part, lines[s : s + len(part)], exactly)]
        assert found, f"{came}\n\ndoes not show\n\n" + "\n".join(part)
        place = found[0] + len(part)


def _lines(text: str) -> list[str]:
    """Without blanks at the ends, runs of blanks and rules as one, and what a clock decides."""
    masked = OF_A_CLOCK.sub("#", text.strip())
    # A printed command begins with the Python of this environment, wherever that is.
    masked = re.sub(r"\S*python \S*scripts/", "python scripts/", masked)
    return [re.sub(r"─+|\s+", " ", line).strip() for line in masked.splitlines()]


def _same(shown: list[str], came: list[str], exactly: bool) -> bool:
    left, right = "\n".join(shown), "\n".join(came)
    if exactly:
        return left == right
    if NUMBER.sub("0", left) != NUMBER.sub("0", right):
        return False
    pairs = zip(NUMBER.findall(left), NUMBER.findall(right), strict=True)
    return all(
        float(a) == pytest.approx(float(b), abs=OTHER_PROCESSOR) if "." in a + b else a == b
        for a, b in pairs
    )
