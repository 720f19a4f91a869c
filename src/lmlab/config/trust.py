"""What a stored config may name. A run directory and a checkpoint come from other people, and to
name a class there is to have its module imported and to have it called.

A stored config may name the parts that are listed here, and whatever this person trusts: what
LMLAB_TRUST lists, and what a config of their own, typed or in a folder of configs, was trained with
before. That is remembered in `remembered_in()`, a file of one name a line: a package, or a class.
"""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from lmlab.errors import LabError

VARIABLE = "LMLAB_TRUST"
DEEPEST = 64  # of nested nodes
LONGEST = 100  # characters of a value that are shown

# By module: the lab's own parts, but for its models, which are below; and those of Lightning's
# callbacks that take neither functions nor paths.
PARTS = {
    "lmlab.data.bpe": "BPETokenizer",
    "lmlab.data.corpus": "from_files shakespeare tinyshakespeare tinyshakespeare_train",
    "lmlab.data.prepared": "IdsTokenizer prepared",
    "lmlab.data.tokenizer": "ByteTokenizer CharTokenizer GPT2Tokenizer",
    "lmlab.display.activations": "Activations",
    "lmlab.display.histograms": "Histograms",
    "lmlab.display.pictures": "Pictures",
    "lmlab.display.projector": "Projector",
    "lmlab.display.samples": "NotebookCells Sample",
    "lmlab.tasks.from_files": "LastWord MinimalPairs MultipleChoice",
    "lmlab.tasks.from_text": "Name NextLine RealWord WordOrder",
    "lmlab.training.costs.mfu": "MFU",
    "lmlab.training.dynamic": "Dynamic",
    "lmlab.training.ema": "EMA",
    "lmlab.training.loss": "CrossEntropy",
    "lmlab.training.many_passes.by_step": "DecaySchedule DropoutSchedule GrowingWindows",
    "lmlab.training.many_passes.swa": "SWA",
    "lmlab.training.many_passes.snapshots": "Snapshots",
    "lmlab.training.many_passes.tokens_ahead": "TokensAhead",
    "lmlab.training.optimizers.muon": "Muon",
    "lmlab.training.optimizers.schedules": "constant cosine cycles linear",
    "lmlab.training.optimizers.parametrisation": "MuP Standard",
    "lightning.pytorch.callbacks": (
        "DeviceStatsMonitor EMAWeightAveraging EarlyStopping GradientAccumulationScheduler "
        "LearningRateMonitor ModelSummary RichModelSummary RichProgressBar TQDMProgressBar Timer "
        "WeightAveraging"
    ),
}
LISTED = {f"{module}.{name}" for module, names in PARTS.items() for name in names.split()}
# The lab's models, and torch's layers and optimizers: classes that take numbers and words.
LAYERS = re.compile(r"(lmlab\.models\.\w+|torch\.nn|torch\.optim)\.[A-Z]\w*")
# What writes, or takes functions: each may be given only these arguments, none of which is a
# function or says where to write, and texts that are plain names.
WRITERS = {
    "lmlab.display.loggers.EventFiles": "",
    "lmlab.display.loggers.MetricsCSV": "",
    "lmlab.display.trackers.MLflow": "experiment_name run_name tracking_uri",
    "lmlab.display.trackers.WandB": "mode name project",
    "lightning.pytorch.callbacks.ModelCheckpoint": (
        "every_n_epochs every_n_train_steps mode monitor save_last save_top_k save_weights_only "
        "verbose"
    ),
    "lightning.pytorch.callbacks.StochasticWeightAveraging": (
        "annealing_epochs annealing_strategy device swa_epoch_start swa_lrs"
    ),
    "lightning.pytorch.loggers.CSVLogger": "flush_logs_every_n_steps name prefix version",
    "lightning.pytorch.loggers.TensorBoardLogger": (
        "default_hp_metric log_graph name prefix version"
    ),
}
ARGUMENTS = {
    target: {*names.split(), "_target_", "_partial_", "_convert_"}
    for target, names in WRITERS.items()
}
# val/loss is one too, and MLflow's own file below this folder; ../x, /x and http://x are not.
NAME = r"\w[\w =+,/-]*(\.[\w =+,/-]+)*"
PLAIN = re.compile(rf"({NAME})?|sqlite:///({NAME}/)?mlflow\.db")

INTERPOLATION = re.compile(r"(\\*)\$\{")  # with the backslashes that OmegaConf counts

# Of these packages one class is trusted at a time: too much else is in them.
SHARED = {"lmlab", "torch", "lightning", "pytorch_lightning", "hydra", "__main__"}
SHARED |= sys.stdlib_module_names

Node = Mapping[str, Any]


class UntrustedError(LabError):
    """A stored config names what it may not."""


def check_stored(config: Any, source: str) -> None:
    """Whether every `_target_` of a stored config, wherever it stands, may be named by one.

    Nothing is imported but modules that this person trusts. `source` is what holds the config, as
    in `run=outputs/a`.

    Raises:
        UntrustedError: naming the first that may not.
    """
    trusted = _trusted()
    for key, node in nodes(config):
        target = node["_target_"]
        if not _is_name(target):
            raise UntrustedError(
                f"{key}._target_={_shown(target)}: {source} holds what is no name of a class"
            )
        if _is_trusted(target, trusted):
            if not node.get("_recursive_", True) and (text := _interpolation(node)):
                raise UntrustedError(
                    f"{key}: {source} holds {_shown(text)}, which {target} may evaluate"
                )
        elif (name := _refused_argument(node)) is not None:
            raise UntrustedError(
                f"{key}.{_shown(name)}={_shown(node[name])}: {source} is not to say this to "
                f"{target}, which may write elsewhere by it; {VARIABLE}={target} allows it"
            )
        elif not _is_listed(target):
            package = _package(target)
            name = target if package in trusted else package  # which only imports it
            raise UntrustedError(
                f"{key}._target_={target}: {source} names what is no part of the lab's, nor of a "
                f"package that you trust; if you do, {VARIABLE}={name} allows it"
            )


def as_texts(stored: Any) -> Any:
    """A stored config for OmegaConf, which then reads every text of it as it is: what is stored is
    resolved, so a `${…}` in it is no interpolation."""
    if isinstance(stored, str):
        return INTERPOLATION.sub(r"\1\1\\${", stored)
    if isinstance(stored, Mapping):
        return {name: as_texts(child) for name, child in stored.items()}
    if isinstance(stored, list | tuple):
        return [as_texts(child) for child in stored]
    return stored


def without(config: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """What is left of a stored config where dotted keys of it are replaced."""
    left = copy.deepcopy(config)
    for key in keys:
        *path, last = key.split(".")
        node: Any = left
        for name in path:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(last, None)
    return left


def is_allowed(target: Any) -> bool:
    """Whether a stored config may name a class, whatever it says to it."""
    return _is_name(target) and (_is_listed(target) or _is_trusted(target, _trusted()))


def remember(config: dict[str, Any], *classes: str) -> str | None:
    """Trust from now on what a config of one's own names, and classes that came of it.

    Returns a line on what is new, and where it is kept; None where nothing is. What a sweep names
    is not kept: no stored config holds it.
    """
    trusted = _trusted()
    new: dict[str, None] = {}
    parts = [node for _, node in nodes({**config, "sweep": None})]
    for node in [*parts, *({"_target_": name} for name in classes)]:
        target = node["_target_"]
        if not _is_name(target) or (_is_listed(target) and _refused_argument(node) is None):
            continue
        if not _is_trusted(target, trusted):
            new[target if _is_shared(target) else _package(target)] = None
    if not new:
        return None
    named, file = ", ".join(new), remembered_in()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.write("".join(f"{name}\n" for name in new))
    except OSError as error:
        reason = error.strerror or error
        return f"{named}: to use such runs later, set {VARIABLE}={','.join(new)} ({file}: {reason})"
    return f"{named}: trusted in runs and checkpoints from now on, as {file} says"


def remembered_in() -> Path:
    """The file with what this person trusts, in LMLAB_CONFIG if that is set."""
    folder = os.environ.get("LMLAB_CONFIG") or platformdirs.user_config_dir("lmlab")
    return Path(folder) / "trusted.txt"


def nodes(tree: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, Node]]:
    """Every node with a `_target_`, with its dotted key, whatever it stands in.

    Raises:
        LabError: if it is nested deeper than any config.
    """
    if depth > DEEPEST:
        raise LabError(f"{key.partition('.')[0]}: nested more than {DEEPEST} deep")
    if isinstance(tree, Mapping) and "_target_" in tree:
        yield key, tree
    for name, child in _children(tree):
        shown = "".join(c if c.isprintable() else "?" for c in str(name)[:LONGEST])
        yield from nodes(child, f"{key}.{shown}" if key else shown, depth + 1)


def _children(tree: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(tree, Mapping):
        return tree.items()
    return enumerate(tree) if isinstance(tree, list | tuple) else ()


def _trusted() -> set[str]:
    """Packages, modules and classes that this person trusts."""
    try:
        lines = remembered_in().read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [*os.environ.get(VARIABLE, "").split(","), *lines]
    return {name for name in map(str.strip, names) if name}


def _is_trusted(target: str, trusted: set[str]) -> bool:
    """Whether it is trusted by itself, or by what it lies in: not what is only imported there."""
    if target in trusted:
        return True
    parts = target.split(".")
    within = {".".join(parts[:n]) for n in range(1, len(parts))} & trusted
    return bool(within) and (_package(target) in SHARED or not _is_shared(target))


def _is_shared(target: str) -> bool:
    """Whether it is of a package of which one class is trusted at a time, under whatever name a
    module has imported it."""
    if _package(target) in SHARED:
        return True
    from lmlab.config.targets import named  # here, for it imports pydantic

    try:
        made_in = getattr(named(target), "__module__", None)
    except LabError:
        return False  # nothing is there
    return not isinstance(made_in, str) or _package(made_in) in SHARED


def _is_name(target: Any) -> bool:
    """Whether it is `package.module.Class`. Importing a `__main__` is running it."""
    if not isinstance(target, str):
        return False
    parts = target.split(".")
    dunder = any(part.startswith("__") for part in parts[1:])
    is_path = len(parts) > 1 and all(map(str.isidentifier, parts))
    return is_path and not dunder and len(target) <= 2 * LONGEST


def _is_listed(target: str) -> bool:
    return target in LISTED or target in ARGUMENTS or LAYERS.fullmatch(target) is not None


def _refused_argument(node: Node) -> str | None:
    """The first argument that what writes is not to be given by strangers."""
    allowed = ARGUMENTS.get(node["_target_"])
    if allowed is None:
        return None
    for name, value in node.items():
        is_plain = not isinstance(value, str) or PLAIN.fullmatch(value) or name == "_target_"
        if name not in allowed or not is_plain:
            return name
    return None


def _interpolation(node: Any) -> str | None:
    """A text that Hydra would evaluate if it were given this."""
    if isinstance(node, str):
        return node if "${" in node else None
    return next((text for _, child in _children(node) if (text := _interpolation(child))), None)


def _package(target: str) -> str:
    return target.partition(".")[0]


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
