"""Any model of the lab's, with the file that transformers needs to load it (`trust_remote_code`).

The file is the lab's own source of what the model is made of, with a thin class around it. Where it
is loaded, torch and transformers are enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from lmlab import __version__
from lmlab.config import build
from lmlab.errors import LabError
from lmlab.exchange import llama
from lmlab.exchange.source import Source
from lmlab.models.modern import Modern

FILE = "modeling_lmlab"
WRAPPER = f"lmlab.exchange.{FILE}"
CONFIG, MODEL = "LabConfig", "LabForCausalLM"
GENERATION = "generation_config.json"


def exported(
    model: nn.Module, node: dict[str, Any], vocab_size: int, block_size: int
) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """A model and the node of its config: transformers' config, the weights, and the file.

    Raises:
        LabError: saying what of its source cannot leave.
    """
    # Every buffer, also those that a checkpoint does not keep: nothing is computed there anew.
    buffers, weights = dict(model.named_buffers()), dict(model.named_parameters())
    is_tied = len(weights) < sum(1 for _ in model.named_parameters(remove_duplicate=False))
    config = {
        "model_type": "lmlab",
        "architectures": [MODEL],
        "auto_map": {"AutoConfig": f"{FILE}.{CONFIG}", "AutoModelForCausalLM": f"{FILE}.{MODEL}"},
        "block_size": block_size,
        "tie_word_embeddings": is_tied,
        "model": node,
        "end_of_text": {
            name: module.end_of_text
            for name, module in model.named_modules()
            if getattr(module, "end_of_text", None) is not None
        },
        "buffer_sizes": {name: list(buffer.shape) for name, buffer in buffers.items()},
    }
    tensors = {f"model.{name}": tensor for name, tensor in (weights | buffers).items()}
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    return config, tensors, source_of(node)


def remarks(model: nn.Module) -> Iterator[str]:
    """How such a folder is loaded, and why it has a file of its own."""
    why = f"transformers has no {type(model).__name__}"
    if type(model) is Modern:
        why = f"neither Llama nor Qwen3 has {', '.join(llama.in_the_way(model))}"
    yield (
        f"{why}: load it with trust_remote_code=True, which runs {FILE}.py, the lab's own source "
        "of this model"
    )


def source_of(node: dict[str, Any]) -> str:
    """The Python file for a model of this node.

    Raises:
        LabError: saying what of its source cannot leave.
    """
    source = Source()
    try:
        parts = {target: source.take(target) for _, target in build.targets(node, "model")}
        listed = "".join(f'    "{target}": {name},\n' for target, name in parts.items())
        source.take(f"{WRAPPER}.PARTS", instead=f"PARTS = {{\n{listed}}}")
        source.take(f"{WRAPPER}.{MODEL}")
        return source.text(
            "A language model that was trained in lmlab, as transformers loads it.\n\nIt needs "
            f"torch and transformers alone. lmlab {__version__} wrote it: these are the lab's own "
            "definitions, by\nthe module that each is from; the class around them comes last.\n"
        )
    except LabError as error:
        raise LabError(
            f"to=hf: {node['_target_']} cannot leave with a file of its own: {error}; "
            "to=safetensors writes the weights alone"
        ) from error
