"""From a checked config to the parts of an experiment."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from lmlab.console import bytes_progress
from lmlab.data.corpus import Corpus
from lmlab.data.tokenizer import Tokenizer
from lmlab.data.tokens import TokenizedCorpus, tokenize
from lmlab.errors import LabError
from lmlab.fingerprint import leaves

if TYPE_CHECKING:
    from torch import nn

    from lmlab.training.parametrisation import Parametrisation

MOST_PARTS = 20_000  # modules and parameters of a model: some seconds to make


class TooManyPartsError(LabError):
    """A model that would take too long to make, on whatever device."""


def part(node: dict[str, Any], key: str, kind: type, **more: Any) -> Any:
    """Instantiate one node of a config.

    A config may come with somebody else's checkpoint, so a target is called only if it says that it
    makes what is wanted: a class of `kind`, or a function annotated to return one.

    Raises:
        LabError: naming `key`, if its target is not there, is no `kind`, or refuses its arguments.
    """
    for target_key, target in _targets(node, key):
        if not _makes(target, kind):
            raise LabError(f"{target_key}={target}: not a {kind.__module__}.{kind.__qualname__}")
    try:
        # "all": plain lists and dicts, since a checkpoint holds no other kind of container.
        return instantiate(node, **more, _convert_="all")
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, LabError):
            cause = cause.__cause__
        if isinstance(cause, LabError):
            raise cause from error
        said = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise LabError(f"{key}: {node.get('_target_')} cannot be made: {said}") from error


def _targets(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every `_target_` in a node, at any depth, with its key."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield f"{key}._target_", str(node["_target_"])
        if node.get("_recursive_") is False:
            return  # what stands below is an argument, which is not made
        for name, child in node.items():
            yield from _targets(child, f"{key}.{name}")
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from _targets(child, f"{key}.{i}")


def _makes(target: str, kind: type) -> bool:
    try:
        found = get_object(target)
    except Exception as error:  # whatever importing somebody's module raises
        said = str(error.__cause__ or error).splitlines()[0]
        raise LabError(f"{target} cannot be imported: {said}") from error
    if isinstance(found, type):
        return issubclass(found, kind)
    try:
        return inspect.isfunction(found) and get_type_hints(found).get("return") is kind
    except (NameError, TypeError):  # an annotation that cannot be resolved promises nothing
        return False


def may_draw(model: dict[str, Any]) -> bool:
    """Whether a model's config may stand for one that draws random numbers in its forward pass."""
    ours = all(target.startswith("lmlab.models.") for _, target in _targets(model, "model"))
    return not ours or any(p for key, p in leaves(model) if key.endswith("dropout"))


def tokens(config: dict[str, Any], fitted: Tokenizer | None = None) -> TokenizedCorpus:
    """The corpus of a config, tokenised; with a bar where that takes long.

    `fitted` is the tokenizer of a run that this one begins from: ids must mean the same.

    Raises:
        LabError: if it is of another kind than the config's, or does not know the text.
    """
    kind, arguments = tokenizer(config)
    if fitted is not None and type(fitted) is not kind:
        raise LabError(f"from: the parent has the tokenizer {fitted.kind}, so this has it too")
    corpus: Corpus = part(config["corpus"], "corpus", Corpus)
    with bytes_progress(f"tokenising {corpus.name}", corpus.n_bytes * kind.passes) as progress:
        return tokenize(
            corpus,
            kind,
            progress=progress,
            arguments=arguments,
            fitted=fitted,
            val_fraction=config["data"]["val_fraction"],
        )


def tokenizer(config: dict[str, Any]) -> tuple[type[Tokenizer], dict[str, Any]]:
    """The tokenizer's class, and what its `fit` is given beside the text."""
    made = part({**config["tokenizer"], "_partial_": True}, "tokenizer", Tokenizer)
    kind: Any = made.func
    arguments = made.keywords
    target = config["tokenizer"]["_target_"]
    if not (isinstance(kind, type) and issubclass(kind, Tokenizer)):
        raise LabError(f"tokenizer._target_={target}: not a subclass of Tokenizer")
    try:
        inspect.signature(kind.fit).bind([], **arguments)
    except TypeError as error:
        raise LabError(f"tokenizer: {target}.fit does not take these arguments: {error}") from error
    return kind, arguments


def model(config: dict[str, Any], vocab_size: int, most: int = MOST_PARTS) -> nn.Module:
    """The model of a config, freshly initialised from torch's default generator.

    Raises:
        LabError: if it cannot be made, or has more than `most` modules and parameters.
    """
    from torch import nn  # here, since a job that is done only asks for its tokens

    node, block_size = config["model"], config["data"]["block_size"]
    with _no_more_than(most):
        made = part(node, "model", nn.Module, vocab_size=vocab_size, block_size=block_size)
    if not hasattr(made, "block_size"):  # sampling asks how many tokens it may see
        made.block_size = block_size
    if not hasattr(made, "vocab_size"):  # rules of optimizers ask which weight makes the logits
        made.vocab_size = vocab_size
    return made


@contextmanager
def _no_more_than(most: int) -> Iterator[None]:
    """Stop a model from being made, which for a million layers would take hours."""
    from torch.nn.modules import module as hooks

    counted = itertools.count(1)

    def count(*_: Any) -> None:
        if next(counted) > most:
            raise TooManyPartsError(
                f"model: more than {most:,} modules and weights; give it fewer layers"
            )

    handles = [
        hooks.register_module_module_registration_hook(count),
        hooks.register_module_parameter_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def optimizer(config: dict[str, Any], key: str = "optimizer") -> partial[Any]:
    """The optimizer of a config, still to be given parameters; `key` is where it stands."""
    from torch.optim import Optimizer

    node = {name: value for name, value in config["optimizer"].items() if name != "rules"}
    return part({**node, "_partial_": True}, key, Optimizer)


def parametrisation(config: dict[str, Any]) -> Parametrisation:
    """The parametrisation of a config; the standard one for a run that was stored without any."""
    from lmlab.training.parametrisation import Parametrisation, Standard

    node = config.get("parametrisation")
    if node is None:
        return Standard()
    made: Parametrisation = part(node, "parametrisation", Parametrisation)
    return made


def schedule(config: dict[str, Any], key: str = "schedule") -> partial[float]:
    """The learning-rate schedule of a config: (step, max_steps) -> multiplier."""
    deferred = part({**config["schedule"], "_partial_": True}, key, float)
    # Hydra's own partial goes through its list of forbidden targets at every call: 0.2 ms a step.
    return partial(deferred.func, *deferred.args, **deferred.keywords)
