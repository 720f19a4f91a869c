"""What a run directory says of itself, read as if somebody else had written it."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from lmlab.errors import LabError
from lmlab.files import read_small

# The same safe subset of YAML, five times as fast where libyaml is there.
YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MOST_CONFIG, MOST_RECORD = 1 << 20, 1 << 24  # bytes; both take a few thousand
MOST_SAMPLE = 1 << 24
DEEPEST = 64  # libyaml's stack ends in a crash, not in an error

NEEDED = ("status", "step", "metrics", "started")  # what a record has from its beginning


class Dumper(yaml.SafeDumper):
    """Writes a list that is in two places twice: `read_config` refuses aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def read_config(path: Path) -> dict[str, Any]:
    """A config.yaml: plain YAML without anchors, aliases and tags, which is all that we write.

    Raises:
        LabError: if it cannot be read, or is something else.
    """
    try:
        content = read_small(path, MOST_CONFIG, within=path.parent)
        _check_plain(content)
        config = yaml.load(content, Loader=YAML)
        json.dumps(config)  # a date or a set is no value of ours
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise LabError(f"{path} cannot be read: {said}") from error
    if not isinstance(config, dict):
        raise LabError(f"{path} is not a run's config")
    return config


def _check_plain(content: bytes) -> None:
    """Refuse what takes more time or stack than it is long, before it is put together."""
    depth = 0
    for event in yaml.parse(content, Loader=YAML):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError("it holds an anchor or an alias")
        if (tag := getattr(event, "tag", None)) is not None:
            raise ValueError(f"it holds the tag {tag}")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")


def read_record(path: Path) -> dict[str, Any]:
    """A run.json, whatever its fields hold; empty if there is none.

    Raises:
        LabError: if it cannot be read, or is something else.
    """
    try:
        record = json.loads(read_small(path, MOST_RECORD, within=path.parent))
        json.dumps(record, ensure_ascii=False).encode()  # half a character cannot be shown
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise LabError(f"{path} is not a run's record")
    return record


def check_record(record: dict[str, Any], path: Path) -> None:
    """Whether the fields that training goes by are there and hold what they should.

    Raises:
        LabError: naming the first that does not.
    """
    for key in NEEDED:
        if key not in record:
            raise LabError(f"{path} is damaged: it says nothing about {key}")
    for key, (holds, what) in FIELDS.items():
        if key in record and not holds(record[key]):
            shown = repr(record[key])
            shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
            raise LabError(f"{path} is damaged: its {key} is {shown}, not {what}")
    if record["status"] == "done" and "val/loss_full" not in record["metrics"]:
        raise LabError(f"{path} is damaged: it says done, and has no val/loss_full")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    # NaN and infinity are results; an integer too long for a float is none.
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def _is_seconds(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _are_ids(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str | int) for v in value.values())


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.fromisoformat(value).timestamp())
    except (ValueError, OverflowError, OSError):
        return False


FIELDS = {
    "status": (_is_text, "a word"),
    "step": (_is_count, "a number of steps"),
    "metrics": (_are_numbers, "numbers by name"),
    "best": (_are_numbers, "numbers by name"),
    "seconds": (_is_seconds, "a number of seconds"),
    "started": (_is_time, "an ISO time"),
    "corpus_sha256": (_is_text, "a sha256"),
    "trackers": (_are_ids, "ids by name"),
}


def read_sample(path: Path) -> str | None:
    """A sample.txt as it can be shown; None if there is none."""
    try:
        return read_small(path, MOST_SAMPLE, within=path.parent).decode("utf-8", errors="replace")
    except (OSError, ValueError):
        return None
