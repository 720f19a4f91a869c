"""What each key of a config accepts. The values stand in conf/; the types and bounds stand here.

A node with a `_target_` has the schema of that target, found by `one_of`; a target that no schema
names is somebody's own class and takes any arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    create_model,
    field_validator,
    model_validator,
)

Count = Annotated[int, Field(ge=1, lt=2**63)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Text = Annotated[str, Field(min_length=1)]
Betas = Annotated[list[BelowOne], Field(min_length=2, max_length=2)]


class Node(BaseModel):
    """A part of a config: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Target(Node):
    """A part that Hydra instantiates."""

    TARGET: ClassVar[str] = ""
    target: str = Field(alias="_target_")
    partial: bool = Field(default=False, alias="_partial_")


class Custom(Target):
    """Somebody's own class, from their own package."""

    model_config = ConfigDict(extra="allow")
    TARGET = "a class of your own"


def one_of(*schemas: type[Target]) -> Any:
    """The schema of a group: which of these it is, `_target_` tells."""
    known = {schema.TARGET for schema in schemas}

    def tag(node: Any) -> str:
        target = node.get("_target_") if isinstance(node, Mapping) else None
        return target if target in known else Custom.TARGET

    union: Any = Annotated[Custom, Tag(Custom.TARGET)]
    for schema in schemas:
        union = union | Annotated[schema, Tag(schema.TARGET)]
    return Annotated[union, Discriminator(tag)]


# --- corpus ----------------------------------------------------------------------------------


class TinyShakespeare(Target):
    TARGET = "lmlab.data.corpus.tinyshakespeare"
    path: str | None


class Shakespeare(Target):
    TARGET = "lmlab.data.corpus.shakespeare"


class Files(Target):
    TARGET = "lmlab.data.corpus.from_files"
    path: str


# --- tokenizer -------------------------------------------------------------------------------


class Char(Target):
    TARGET = "lmlab.data.tokenizer.CharTokenizer"


class Byte(Target):
    TARGET = "lmlab.data.tokenizer.ByteTokenizer"


class GPT2BPE(Target):
    TARGET = "lmlab.data.tokenizer.GPT2Tokenizer"


# --- model -----------------------------------------------------------------------------------


class Bigram(Target):
    TARGET = "lmlab.models.bigram.Bigram"


class NGram(Target):
    TARGET = "lmlab.models.ngram.NGram"
    order: Annotated[int, Field(ge=1, le=6)]


class GPT(Target):
    TARGET = "lmlab.models.gpt.GPT"
    n_layer: Count
    n_head: Count
    n_embd: Count
    dropout: BelowOne


class Average(Target):
    TARGET = "lmlab.models.averaging.Average"


class Head(Target):
    TARGET = "lmlab.models.attention.Head"
    scaled: bool = True


class MultiHead(Target):
    TARGET = "lmlab.models.attention.MultiHead"
    n_head: Count


class ProjectedMultiHead(MultiHead):
    TARGET = "lmlab.models.attention.ProjectedMultiHead"


class FeedForward(Target):
    TARGET = "lmlab.models.transformer.FeedForward"


class WideFeedForward(Target):
    TARGET = "lmlab.models.transformer.WideFeedForward"


class Block(Target):
    TARGET = "lmlab.models.transformer.Block"
    attention: one_of(Average, Head, MultiHead, ProjectedMultiHead)  # type: ignore[valid-type]
    feed_forward: one_of(FeedForward, WideFeedForward)  # type: ignore[valid-type]


class ResidualBlock(Block):
    TARGET = "lmlab.models.transformer.ResidualBlock"


class PreNormBlock(Block):
    TARGET = "lmlab.models.transformer.PreNormBlock"


LAYERS = (Average, Head, MultiHead, ProjectedMultiHead, Block, ResidualBlock, PreNormBlock)


class Stack(Target):
    TARGET = "lmlab.models.transformer.Stack"
    n_embd: Count
    n_layer: Count
    layer: one_of(*LAYERS)  # type: ignore[valid-type]


# --- optimizer, schedule ---------------------------------------------------------------------


class Optimizer(Target):
    lr: Positive
    weight_decay: NotNegative


class SGD(Optimizer):
    TARGET = "torch.optim.SGD"
    momentum: BelowOne = 0.0
    nesterov: bool = False
    fused: bool | None = None


class Adagrad(Optimizer):
    TARGET = "torch.optim.Adagrad"
    eps: Positive


class RMSprop(Optimizer):
    TARGET = "torch.optim.RMSprop"
    alpha: BelowOne
    eps: Positive
    momentum: BelowOne


class Adam(Optimizer):
    TARGET = "torch.optim.Adam"
    betas: Betas
    eps: Positive
    fused: bool | None


class AdamW(Adam):
    TARGET = "torch.optim.AdamW"


class Muon(Optimizer):
    TARGET = "torch.optim.Muon"
    momentum: BelowOne
    nesterov: bool = True
    ns_steps: Annotated[int, Field(ge=1, lt=100)] = 5
    eps: Positive = 1e-7
    adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None


class Constant(Target):
    TARGET = "lmlab.training.optim.constant"
    warmup_steps: CountOrZero


class Cosine(Constant):
    TARGET = "lmlab.training.optim.cosine"
    final: Fraction


class Linear(Constant):
    TARGET = "lmlab.training.optim.linear"
    warmdown: Fraction
    final: Fraction


# --- rules: other optimizers for some parameters ---------------------------------------------

OPTIMIZERS = (SGD, Adagrad, RMSprop, Adam, AdamW, Muon)
SCHEDULES = (Constant, Cosine, Linear)


class Rule(Node):
    """What a rule says beside its optimizer's own keys."""

    params: Text | Annotated[list[Text], Field(min_length=1)]
    schedule: one_of(*SCHEDULES) | None = None  # type: ignore[valid-type]


class Retuned(Rule):
    """A rule without a `_target_`: the optimizer itself, with these numbers in place of its own.

    One that an optimizer does not take is refused by its constructor.
    """

    model_config = ConfigDict(extra="allow")
    lr: Positive = 1.0
    weight_decay: NotNegative = 0.0
    betas: Betas = Field(default_factory=list)
    eps: Positive = 1.0
    alpha: BelowOne = 0.0
    momentum: BelowOne = 0.0
    nesterov: bool = False
    fused: bool | None = None


def _also(more: type[Node]) -> list[type[Target]]:
    """The schema of each optimizer, with the keys of `more` besides."""
    bases: list[Any] = [(more, schema) for schema in OPTIMIZERS]
    return [create_model(f"{more.__name__}{b[1].__name__}", __base__=b) for b in bases]


AnyRule: Any = Annotated[
    Annotated[one_of(*_also(Rule)), Tag("made")] | Annotated[Retuned, Tag("retuned")],
    Discriminator(lambda x: "made" if isinstance(x, dict) and "_target_" in x else "retuned"),
]


class Ruled(Node):
    """What an optimizer may have beside its own keys: others for some of the parameters."""

    rules: dict[Text, AnyRule | None] | None = None


# --- callbacks, loggers --------------------------------------------------------------------------


class Pictures(Target):
    TARGET = "lmlab.display.pictures.Pictures"
    every: CountOrZero
    tokens: Count
    pairs: Count


class Projector(Target):
    TARGET = "lmlab.display.projector.Projector"


class Histograms(Target):
    TARGET = "lmlab.display.histograms.Histograms"
    every: CountOrZero


class Sample(Target):
    TARGET = "lmlab.display.samples.Sample"
    prompt: str | None = None
    max_new_tokens: CountOrZero = 200
    temperature: NotNegative = 1.0
    top_k: Count | None = None


class NotebookCells(Target):
    TARGET = "lmlab.display.samples.NotebookCells"
    batch_size: Count
    new_tokens: CountOrZero


CALLBACKS = (Sample, NotebookCells, Pictures, Projector, Histograms)


class EventFiles(Target):
    TARGET = "lmlab.display.loggers.EventFiles"


class MetricsCSV(Target):
    TARGET = "lmlab.display.loggers.MetricsCSV"


# --- the three commands ----------------------------------------------------------------------


class Data(Node):
    batch_size: Count
    block_size: Count
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    steps_per_batch: Count


class Eval(Node):
    every: Count
    protocol: Literal["random", "full"]
    iters: Count
    stride: Count | None


class Checkpoint(Node):
    keep: Count
    every: Count | None
    minutes: Positive | None


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
    return path


Inside = Annotated[Text, AfterValidator(stays_inside)]


class Sweep(Node):
    name: Inside
    fail_fast: bool
    job: str | None
    trial: Custom | None  # a callback that reports to the sweeper


class Parent(Node):
    """The checkpoint that a run began from."""

    run: str
    step: CountOrZero
    fingerprint: str


class Train(Node):
    """conf/train.yaml."""

    corpus: one_of(TinyShakespeare, Shakespeare, Files)  # type: ignore[valid-type]
    tokenizer: one_of(Char, Byte, GPT2BPE)  # type: ignore[valid-type]
    model: one_of(Bigram, NGram, Stack, GPT)  # type: ignore[valid-type]
    optimizer: one_of(*_also(Ruled))  # type: ignore[valid-type]
    schedule: one_of(*SCHEDULES)  # type: ignore[valid-type]
    trainer: Trainer
    callbacks: dict[str, one_of(*CALLBACKS)]  # type: ignore[valid-type]
    logger: dict[str, one_of(EventFiles, MetricsCSV) | bool | None]  # type: ignore[valid-type]
    seed: Seed
    streams: Literal["separate", "global"]
    data: Data
    eval: Eval
    checkpoint: Checkpoint
    output_dir: Text
    name: Inside
    run: str | None
    parent: str | Parent | None = Field(alias="from")
    resume: Literal["auto"] | None
    run_dir: Text | None
    dry_run: bool
    sweep: Sweep | None = None  # a stored run keeps none

    @field_validator("logger")
    @classmethod
    def is_a_logger_or_none(cls, logger: dict[str, Any]) -> dict[str, Any]:
        for name, node in logger.items():
            if node is True and name not in ("tensorboard", "csv"):
                raise ValueError(f"{name} is a logger by its _target_, or null")
        return logger

    @model_validator(mode="after")
    def fits_together(self) -> Train:
        stride = self.eval.stride
        if stride is not None and stride > self.data.block_size:
            raise ValueError(
                f"eval.stride={stride} skips tokens: at most data.block_size={self.data.block_size}"
            )
        for key, n_head in heads(self.model, "model"):
            if self.model.n_embd % n_head:
                raise ValueError(
                    f"model.n_embd={self.model.n_embd} is not divisible by {key}={n_head}"
                )
        return self


def heads(node: Any, key: str) -> list[tuple[str, int]]:
    """Every n_head in a model's config, with its key."""
    if isinstance(node, GPT | MultiHead):
        return [(f"{key}.n_head", node.n_head)]
    if isinstance(node, Stack):
        return heads(node.layer, f"{key}.layer")
    return heads(node.attention, f"{key}.attention") if isinstance(node, Block) else []


class Evaluate(Node):
    """conf/evaluate.yaml."""

    run: str
    checkpoint: str
    stride: Count | None
    accelerator: str


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
    seed: Seed
