"""From a checked config to the parts of an experiment."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, get_type_hints

from hydra.utils import get_object

from lmlab.console import bytes_progress
from lmlab.data.corpus import Corpus
from lmlab.data.tokenizer import Tokenizer
from lmlab.data.tokens import TokenizedCorpus, tokenize
from lmlab.errors import LabError
from lmlab.fingerprint import leaves
from lmlab.targets import HYDRAS

if TYPE_CHECKING:
    from torch import nn

    from lmlab.training.parametrisation import Parametrisation


def part(node: dict[str, Any], key: str, kind: type, **more: Any) -> Any:
    """Instantiate one node of a config, as Hydra does, but for this: a text is a text, `${…}` too.

    A target is called only if it says that it makes what is wanted: a class of `kind`, or a
    function annotated to return one. What others' configs may name, `trust.check_stored` checks.

    Raises:
        LabError: naming `key`, if its target is not there, is no `kind`, or refuses its arguments.
    """
    for target_key, target in _targets(node, key):
        if not _makes(target, kind):
            raise LabError(f"{target_key}={target}: not a {kind.__module__}.{kind.__qualname__}")
    try:
        return _made(node, **more)
    except LabError:
        raise
    except Exception as error:  # whatever somebody's constructor raises
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LabError(f"{key}: {node.get('_target_')} cannot be made: {said}") from error


def _made(node: Any, **more: Any) -> Any:
    """What a value stands for, nodes in it made first; `more` are arguments as they are."""
    if isinstance(node, list):
        return [_made(child) for child in node]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {name: _made(child) for name, child in node.items()}
    inside = _made if _is_recursive(node) else copy.deepcopy
    positional = [inside(child) for child in node.get("_args_", [])]
    named = {k: inside(v) for k, v in node.items() if k != "_target_" and k not in HYDRAS} | more
    target = get_object(node["_target_"])
    make = partial(target, *positional, **named)
    return make if node.get("_partial_") else make()


def _is_recursive(node: dict[str, Any]) -> bool:
    """Whether nodes below one with a `_target_` are made; else they are arguments as they are."""
    return bool(node.get("_recursive_", True))


def _targets(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every `_target_` that `_made` comes to in a node, at any depth, with its key."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield f"{key}._target_", str(node["_target_"])
            if not _is_recursive(node):
                return
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
    # Not one that a module of theirs only imports: torch has functions that take source text.
    own = inspect.isfunction(found) and found.__module__.partition(".")[0] == target.split(".")[0]
    try:
        return own and get_type_hints(found).get("return") is kind
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


def model(config: dict[str, Any], vocab_size: int) -> nn.Module:
    """The model of a config, freshly initialised from torch's default generator."""
    from torch import nn  # here, since a job that is done only asks for its tokens

    block_size = config["data"]["block_size"]
    made = part(config["model"], "model", nn.Module, vocab_size=vocab_size, block_size=block_size)
    if not hasattr(made, "block_size"):  # sampling asks how many tokens it may see
        made.block_size = block_size
    if not hasattr(made, "vocab_size"):  # rules of optimizers ask which weight makes the logits
        made.vocab_size = vocab_size
    return made


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
    return part({**config["schedule"], "_partial_": True}, key, float)
