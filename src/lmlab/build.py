"""From a checked config to the parts of an experiment."""

from __future__ import annotations

from functools import partial
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from torch import nn

from lmlab.console import bytes_progress
from lmlab.data.corpus import Corpus
from lmlab.data.tokenizer import Tokenizer
from lmlab.data.tokens import TokenizedCorpus, tokenize
from lmlab.errors import LabError


def part(node: dict[str, Any], key: str, **more: Any) -> Any:
    """Instantiate one node of a config.

    Raises:
        LabError: naming `key`, if its class is not there or refuses its arguments.
    """
    try:
        # "all": plain lists and dicts, since a checkpoint holds no other kind of container.
        return instantiate(node, **more, _convert_="all")
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, LabError):
            raise cause from error
        said = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise LabError(f"{key}: {node.get('_target_')} cannot be made: {said}") from error


def tokens(config: dict[str, Any]) -> TokenizedCorpus:
    """The corpus of a config, tokenised; with a bar where that takes long."""
    corpus: Corpus = part(config["corpus"], "corpus")
    kind = get_class(config["tokenizer"]["_target_"])
    if not issubclass(kind, Tokenizer):
        raise LabError(f"tokenizer={kind.__qualname__} is no lmlab.data.tokenizer.Tokenizer")
    with bytes_progress(f"tokenising {corpus.name}", corpus.n_bytes * kind.passes) as progress:
        return tokenize(corpus, kind, progress=progress)


def model(config: dict[str, Any], vocab_size: int) -> nn.Module:
    """The model of a config, freshly initialised from torch's default generator."""
    block_size = config["data"]["block_size"]
    built = part(config["model"], "model", vocab_size=vocab_size, block_size=block_size)
    if not isinstance(built, nn.Module):
        raise LabError(f"model={config['model'].get('_target_')} is no torch.nn.Module")
    return built


def optimizer(config: dict[str, Any]) -> partial[Any]:
    """The optimizer of a config, still to be given parameters."""
    return part({**config["optimizer"], "_partial_": True}, "optimizer")


def schedule(config: dict[str, Any]) -> partial[float]:
    """The learning-rate schedule of a config: (step, max_steps) -> multiplier."""
    return part({**config["schedule"], "_partial_": True}, "schedule")
