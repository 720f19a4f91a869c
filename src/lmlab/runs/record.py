"""What a run directory says of itself, read as if somebody else had written it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmlab.bounds import CountOrZero
from lmlab.config.stored import metrics_by_todays_names
from lmlab.errors import LabError
from lmlab.files import read_small

# The same safe subset of YAML, five times as fast where libyaml is there.
YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MOST_CONFIG, MOST_RECORD = 1 << 20, 1 << 24  # bytes; both take a few thousand
MOST_SAMPLE = 1 << 24
DEEPEST = 64  # libyaml's stack ends in a crash, not in an error
MOST_VALUES = 1 << 20
PLAIN = (bool, int, float, str, type(None))


def _is_time(text: str) -> str:
    try:
        datetime.fromisoformat(text).timestamp()
    except (OverflowError, OSError) as error:
        raise ValueError("out of range") from error
    return text


Word = Annotated[str, Field(pattern=r"^[A-Za-z_0-9][\w.+/-]*$")]


class Loose(BaseModel):
    """What somebody else may have written: the types of what is named here, and anything else."""

    model_config = ConfigDict(extra="allow", strict=True)


class Best(Loose):
    loss: float | None = Field(None, alias="val/loss")
    step: CountOrZero | None = None


class FullPass(Loose):
    """The pass over val at the end: how many tokens it predicts, of how many; 0: there is none."""

    tokens: CountOrZero
    of: CountOrZero


class Record(Loose):
    """run.json. What has no default is there from the beginning; None: not said, or unknown."""

    status: str = Field(description="a word")
    step: CountOrZero = Field(description="a number of steps")
    metrics: dict[str, float] = Field(description="numbers by name")
    started: Annotated[str, AfterValidator(_is_time)] = Field(description="an ISO time")
    seconds: float = Field(0.0, allow_inf_nan=False, description="a number of seconds")
    best: Best | None = Field(None, description="numbers by name")
    corpus_sha256: str = Field("", description="a sha256")
    fingerprint: str = Field("", description="a text")
    parent: Any = None
    swept: dict[str, Any] | None = Field(None, description="values by key")
    pause_at: CountOrZero | None = Field(None, description="a step")  # that it was last told
    choices: dict[Word, Word] | None = Field(None, description="options by group")
    code: dict[str, str] | None = Field(None, description="hashes by module")
    versions: dict[str, str] | None = Field(None, description="versions by package")
    git_commit: str | None = Field(None, description="a text")
    error: str | None = Field(None, description="a text")
    trackers: dict[str, str | int] = Field({}, description="ids by name")
    parameters: CountOrZero | None = Field(None, description="a number")
    parameters_inside: CountOrZero | None = Field(None, description="a number")
    train_tokens: CountOrZero | None = Field(None, description="a number")
    full_pass: FullPass | None = Field(None, description="numbers of tokens")
    tokens: CountOrZero | None = Field(None, description="a number")
    flops: float | None = Field(None, description="a number")
    tokens_per_second: float | None = Field(None, description="a number")
    threads: CountOrZero | None = Field(None, description="a number")
    processor: str | None = Field(None, description="a text")
    device: str | None = Field(None, description="a text")
    computed_before: list[dict[str, Any]] | None = Field(None, description="a list of machines")

    @model_validator(mode="after")
    def has_its_result(self) -> Record:
        if self.status == "done" and result_of(self.metrics) is None:
            raise ValueError("it says done, and has no val/loss_full")
        return self


def result_of(metrics: Mapping[str, float]) -> str | None:
    """What a run that is done is judged by: val/loss_full, or without a full pass over val the last
    val/loss. None: it has neither."""
    return next((name for name in ("val/loss_full", "val/loss") if name in metrics), None)


def tokens_of_result(record: Mapping[str, Any]) -> str:
    """Of which val tokens the `result_of` a checked record is, in words."""
    full_pass = record.get("full_pass") or {}
    predicted, of = full_pass.get("tokens"), full_pass.get("of")
    if predicted == of:  # an earlier lmlab, which says neither, left none out
        return "each val token predicted once"
    if not predicted:
        return "its last evaluation; eval.full=false"
    return f"the first {predicted:,} of {of:,} val tokens, each predicted once"


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
        config = check_plain_data(yaml.load(content, Loader=YAML))
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise LabError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
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
        record = check_plain_data(json.loads(read_small(path, MOST_RECORD, within=path.parent)))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise LabError(f"{path} is not a run's record")
    if isinstance(metrics := record.get("metrics"), dict):
        record["metrics"] = metrics_by_todays_names(metrics)
    return record


def check_plain_data(data: Any) -> Any:
    """`data`, if it is what JSON can hold: numbers, texts, lists, and dicts by text.

    Raises:
        ValueError: if it is not, or is nested too deep, perhaps in a circle.
    """
    left, n_values = [(data, 0)], 0
    while left:
        node, depth = left.pop()
        n_values += 1  # lists that stand in many places count each time
        if depth > DEEPEST or n_values > MOST_VALUES:
            raise ValueError(f"it is nested more than {DEEPEST} deep, or without end")
        if isinstance(node, dict):
            if not all(isinstance(key, str) for key in node):
                raise ValueError("it holds a key that is no text")
            left += [(child, depth + 1) for pair in node.items() for child in pair]
        elif isinstance(node, list | tuple):
            left += [(child, depth + 1) for child in node]
        elif isinstance(node, str):
            node.encode()  # half a character cannot be shown
        elif type(node) not in PLAIN:  # a date, a set or a tensor is no value of ours
            raise ValueError(f"it holds a {type(node).__name__}")
    return data


def check_record(record: dict[str, Any], path: Path) -> None:
    """Whether the fields of a record hold what they should.

    Raises:
        LabError: naming the first that does not.
    """
    try:
        Record.model_validate(record)
    except ValidationError as error:
        raise LabError(f"{path} is damaged: {first_problem(error, Record)}") from error


def first_problem(error: ValidationError, kind: type[BaseModel]) -> str:
    """What is wrong with what somebody wrote, in one line."""
    first = error.errors()[0]
    key, value = ".".join(map(str, first["loc"])), first["input"]
    if first["type"] == "missing":
        return f"it says nothing about {key}"
    if not key:  # a rule of the whole
        return first["msg"].removeprefix("Value error, ")
    described = next(
        (
            field.description
            for name, field in kind.model_fields.items()
            if first["loc"][0] in (name, field.alias)
        ),
        None,
    )
    if described is None and first["type"] == "value_error":
        return f"its {key[:80]}: {first['ctx']['error']}"
    wrong = f"not {described}" if described else first["msg"][:1].lower() + first["msg"][1:200]
    return f"its {key[:80]} is {shortened(value)}, {wrong}"


def shortened(value: Any) -> str:
    """A value as a message shows it, cut where it is long."""
    known = isinstance(value, str | int | float | list | dict | tuple | None)
    try:
        text = repr(value) if known else f"a {type(value).__name__}"
    except (ValueError, RecursionError):  # Python writes no number of 5,000 digits down
        text = f"a {type(value).__name__} too large"
    return text if len(text) <= 40 else f"{text[:40]}…"


def read_sample(path: Path) -> str | None:
    """A sample.txt as it can be shown; None if there is none."""
    try:
        return read_small(path, MOST_SAMPLE, within=path.parent).decode("utf-8", errors="replace")
    except (OSError, ValueError):
        return None
