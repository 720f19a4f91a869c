"""What each key of a config accepts. The values stand in conf/, in the order that they have here.

The keys of a part, a node with a `_target_`, are the arguments of that class or function, with the
types, bounds and defaults that stand there; `targets.py` reads them. The other keys are here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    WrapValidator,
    field_validator,
    model_validator,
)

from lmlab.bounds import (
    BelowOne,
    Count,
    CountOrZero,
    Fraction,
    NotNegative,
    Positive,
    Seed,
    Text,
)
from lmlab.config.targets import Target


class Node(BaseModel):
    """A part of a config: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def plain(self) -> dict[str, Any]:
        """As it is stored, compared and fingerprinted. What an older config lacks stays missing."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class Custom(Node):
    """A part whose arguments are left to its target."""

    model_config = ConfigDict(extra="allow")
    target: str = Field(alias="_target_")
    partial: bool = Field(default=False, alias="_partial_")


# --- the groups ------------------------------------------------------------------------------

# torch.optim annotates its floats without bounds. These are for any optimizer that does.
OF_OPTIMIZERS = {
    "lr": Positive,
    "weight_decay": NotNegative,
    "betas": BelowOne,
    "eps": Positive,
    "momentum": BelowOne,
    "alpha": BelowOne,
}


def as_written(plain: Any, check: Callable[[Any], Any]) -> Any:
    """A node that has been checked, in the order and by the containers that it is written in, with
    the numbers that its target wants: `lr=1` and `lr=1.0` are one config."""
    return _with_numbers(plain, check(plain))


def _with_numbers(plain: Any, checked: Any) -> Any:
    if isinstance(checked, BaseModel):
        checked = checked.model_dump(by_alias=True)
    if isinstance(checked, dict):
        return {key: _with_numbers(value, checked[key]) for key, value in plain.items()}
    if isinstance(checked, list | tuple):
        return [_with_numbers(*pair) for pair in zip(plain, checked, strict=True)]
    return checked if type(checked) in (float, int) else plain


AsWritten = WrapValidator(as_written)
Part = dict[str, Any]  # a node with a `_target_`

Corpus = Annotated[Part, Target("corpus"), AsWritten]
Tokenizer = Annotated[Part, Target("tokenizer", method="fit", positional=1), AsWritten]
Model = Annotated[Part, Target("model", given=frozenset({"vocab_size", "block_size"})), AsWritten]
Loss = Annotated[Part, Target("loss"), AsWritten]
Schedule = Annotated[Part, Target("schedule", positional=2), AsWritten]
Parametrisation = Annotated[Part, Target("parametrisation"), AsWritten]


class SameOptimizer(Node):
    """A rule without a `_target_`: the optimizer itself, with these numbers in place of its own.

    An argument that it does not take is refused when it is made.
    """

    model_config = ConfigDict(extra="allow")
    params: Text | Annotated[list[Text], Field(min_length=1)]
    schedule: Schedule | None = None
    lr: Positive = 1.0
    weight_decay: NotNegative = 0.0
    betas: Annotated[list[BelowOne], Field(min_length=2, max_length=2)] = Field([0.9, 0.999])
    eps: Positive = 1.0
    alpha: BelowOne = 0.0
    momentum: BelowOne = 0.0
    nesterov: bool = False
    fused: bool | None = None


OTHER_OPTIMIZER = Target(
    "optimizer.rules",
    positional=1,
    bounds=OF_OPTIMIZERS,
    more={
        "params": SameOptimizer.model_fields["params"].annotation,
        "schedule": NotRequired[Schedule | None],
    },
)


def check_rule(node: Any) -> Any:
    """The optimizer of some parameters: another one, or the same with other numbers."""
    if isinstance(node, Mapping) and "_target_" in node:
        return OTHER_OPTIMIZER.check(node)
    return SameOptimizer.model_validate(node)


Rule = Annotated[Any, PlainValidator(check_rule)]
Optimizer = Annotated[
    Part,
    Target(
        "optimizer",
        positional=1,
        bounds=OF_OPTIMIZERS,
        more={"rules": NotRequired[dict[Text, Rule | None] | None]},
    ),
    AsWritten,
]
Callback = Annotated[Part, Target("callbacks", offered=frozenset({"tokenizer", "seed"})), AsWritten]
Task = Annotated[Part, Target("tasks"), AsWritten]
Logger = Annotated[
    Part, Target("logger", offered=frozenset({"folder", "save_dir", "resume_step"})), AsWritten
]

# --- the three commands ----------------------------------------------------------------------


WindowOrder = Literal["random", "epochs", "documents"]


class Data(Node):
    batch_size: Count
    block_size: Count
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    order: WindowOrder = "random"  # older runs do not say
    steps_per_batch: Count


class Eval(Node):
    every: Count
    protocol: Literal["random", "full"]
    iters: Count
    stride: Count | None
    full: bool | Annotated[int, Field(ge=2)] = True  # older runs do not say
    at_start: bool = True  # older runs do not say
    tasks_every: CountOrZero = 1  # older runs do not say


class Checkpoint(Node):
    every: Count | None
    minutes: Positive | None
    keep: CountOrZero


class Trainer(Node):
    max_steps: CountOrZero
    accelerator: str
    devices: Count | list[int] | str
    num_nodes: Count = 1  # older runs do not say
    strategy: str
    precision: str | int
    gradient_clip_val: Positive | None
    accumulate_grad_batches: Count
    log_every_n_steps: Count
    compile: bool


def stays_inside(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError("give a relative path without `..`, such as study/first")
    if not path.isprintable():  # it stands in logs, and in commands to copy
        raise ValueError("give a name on one line, without control characters")
    if any(len(part.encode(errors="surrogatepass")) > 255 for part in path.split("/")):
        raise ValueError("a name longer than the file system takes")
    return path


Inside = Annotated[Text, AfterValidator(stays_inside)]


class Race(Node):
    first: Annotated[int, Field(ge=2)] | None
    least: Positive | None


class Sweep(Node):
    name: Inside
    fail_fast: bool
    max_jobs: Count = 10_000  # older runs do not say
    wait: bool
    race: Race = Race(first=None, least=None)
    job: str | None
    trial: Custom | None  # a callback that reports to the sweeper


class Parent(Node):
    """The checkpoint that a run began from."""

    run: str
    step: CountOrZero
    fingerprint: str


class Teacher(Node):
    runs: Text | list[Text | Parent] | None
    share: Fraction


def those_on(parts: Any) -> Any:
    """Of parts by name: one that is null or false is turned off, as if it had been left out."""
    if not isinstance(parts, dict):
        return parts
    return {k: node for k, node in parts.items() if node is not None and node is not False}


class Train(Node):
    """conf/train.yaml."""

    corpus: Corpus
    tokenizer: Tokenizer
    model: Model
    loss: Loss | None = None  # older runs do not say
    optimizer: Optimizer
    schedule: Schedule
    parametrisation: Parametrisation | None = None  # older runs do not say
    trainer: Trainer
    callbacks: dict[str, Callback]
    tasks: dict[str, Task] = {}  # older runs do not say
    logger: dict[str, Logger | bool | None]
    seed: Seed
    streams: Literal["separate", "global"]
    data: Data
    eval: Eval
    checkpoint: Checkpoint
    output_dir: Text
    name: Inside
    resume: Literal["auto"] | None
    run: str | None
    pause_at: Count | None = None  # older runs do not say
    parent: str | Parent | None = Field(alias="from")
    teacher: Teacher | None = None  # older runs do not say
    dry_run: bool
    run_dir: Text | None
    sweep: Sweep | None = None  # a stored run keeps none

    @property
    def begins_from(self) -> Parent | None:
        """`from`, once `runs.parents.resolve` has looked it up."""
        assert not isinstance(self.parent, str), self.parent
        return self.parent

    @field_validator("callbacks", "tasks", mode="before")
    @classmethod
    def are_on(cls, parts: Any) -> Any:
        return those_on(parts)

    @field_validator("logger")
    @classmethod
    def is_a_logger_or_none(cls, logger: dict[str, Any]) -> dict[str, Any]:
        for name, node in logger.items():
            if node is True:
                raise ValueError(f"{name} is a logger by its _target_, or null")
        return logger

    @model_validator(mode="after")
    def fits_together(self) -> Train:
        stride = self.eval.stride
        if stride is not None and stride > self.data.block_size:
            raise ValueError(
                f"eval.stride={stride} skips tokens: at most data.block_size={self.data.block_size}"
            )
        if self.eval.full is not True and 0 < self.eval.full < self.data.block_size:
            raise ValueError(
                f"eval.full={self.eval.full} is less than a window: give "
                f"data.block_size={self.data.block_size} tokens or more, true, or false"
            )
        if self.pause_at is not None and self.pause_at >= self.trainer.max_steps:
            raise ValueError(
                f"pause_at={self.pause_at} is no step before the end, "
                f"trainer.max_steps={self.trainer.max_steps}"
            )
        return self


class Evaluate(Node):
    """conf/evaluate.yaml."""

    run: str
    checkpoint: str
    stride: Count | None
    dynamic_lr: Positive | None
    ensemble: Literal["snapshots"] | list[Text] | None
    weights: list[Positive] | None
    tasks: dict[str, Task] = {}
    against: Text | None = None
    corpus: dict[str, Any]
    accelerator: str

    @field_validator("tasks", mode="before")
    @classmethod
    def are_on(cls, parts: Any) -> Any:
        return those_on(parts)

    @model_validator(mode="after")
    def fits_together(self) -> Evaluate:
        if self.against is not None and not self.tasks:
            raise ValueError(f"against={self.against}: runs are compared by tasks; give tasks=text")
        return self


class Export(Node):
    """conf/export.yaml."""

    run: str
    checkpoint: str
    to: Literal["hf", "safetensors"]
    folder: Text


class Generate(Node):
    """conf/generate.yaml."""

    run: str
    checkpoint: str
    prompt: str | None
    max_new_tokens: Count
    temperature: NotNegative
    top_k: Count | None
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    samples: Count
    stop: bool
    seed: Seed
