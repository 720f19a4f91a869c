"""Weights that others wrote, for a run to begin from: Hugging Face's GPT-2, nanoGPT's ckpt.pt."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lmlab.data.sources.download import sha256
from lmlab.errors import LabError
from lmlab.files import path_typed, read_small
from lmlab.models.inside.memory_limit import memory_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lmlab.data.tokenizer import Tokenizer
    from lmlab.exchange.tensor_files import Described

CONFIG, RUN_CONFIG = "config.json", "config.yaml"
NANOGPT = "ckpt.pt"
TENSORS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
MOST_JSON = 1 << 26  # bytes
PADDED_TO = 128  # rows of an embedding, for the sake of speed, come in multiples of at most so many
GELU = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}
# What must have this value, if it is there, for the model to be what ours is.
EXPECTED = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


@dataclass(frozen=True)
class Foreign:
    """What somebody else's files hold."""

    TARGET: ClassVar[str] = "lmlab.models.gpt.GPT"  # the model that they are weights of

    path: Path  # as it was named
    files: tuple[Path, ...]  # with the tensors
    model: dict[str, Any]  # settings of model=gpt2
    vocab_size: int
    block_size: int
    is_nanogpt: bool

    @property
    def fingerprint(self) -> str:
        """A digest of every byte of the weights."""
        return "-".join(sha256(file)[:32] for file in self.files)

    def check(self) -> None:
        """Whether the files hold what the config says, without reading their numbers.

        Raises:
            LabError: naming the first tensor that does not fit, or what no memory holds.
        """
        from lmlab.exchange import gpt2
        from lmlab.exchange.tensor_files import describe, described
        from lmlab.models.inside.torch_inside import COMPILED

        sizes = self.model["n_layer"], self.model["n_embd"], self.vocab_size, self.block_size
        expected = partial(gpt2.expected_shapes, *sizes, self.model["bias"])
        has, on_disk = memory_bytes(), sum(file.stat().st_size for file in self.files)
        try:
            if on_disk > has:
                raise LabError(_too_much(f"{on_disk:,} bytes of tensors", has))
            there: dict[str, Described] = {}
            for file in self.files:
                if self.is_nanogpt:
                    there |= describe(file, _nanogpt(file)["model"])
                else:
                    there |= described(file)
            there = {name.removeprefix(COMPILED): tensor for name, tensor in there.items()}
            gpt2.check_tensors(there, expected(), self.model["tied"], not self.is_nanogpt)
            n_numbers = sum(math.prod(shape) for _, shape in expected())
            if 4 * n_numbers > has:
                raise LabError(_too_much(f"{n_numbers:,} numbers", has))
        except LabError as error:
            raise self._named(error) from error

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights for a model of these sizes, in float32.

        Raises:
            LabError: naming the first tensor that does not fit.
        """
        from lmlab.exchange.gpt2 import imported
        from lmlab.exchange.tensor_files import tensors_of
        from lmlab.models.gpt import GPT
        from lmlab.models.inside.torch_inside import COMPILED

        assert isinstance(model, GPT)
        tensors: dict[str, Tensor] = {}
        for file in self.files:
            tensors |= _nanogpt(file)["model"] if self.is_nanogpt else tensors_of(file)
        tensors = {name.removeprefix(COMPILED): tensor for name, tensor in tensors.items()}
        try:
            return imported(tensors, model, self.model["tied"], not self.is_nanogpt)
        except LabError as error:
            raise self._named(error) from error

    def _named(self, error: LabError) -> LabError:
        names_it = str(self.path) in str(error)
        return error if names_it else LabError(f"from={self.path}: {error}")

    def tokenizer(self) -> Tokenizer:
        """What turns text into this model's ids.

        Raises:
            LabError: if there is none, or one that the lab has no equal of.
        """
        from lmlab.exchange.tokenizer_files import read_nanogpt_tokenizer, read_tokenizer

        folder = self.path if self.path.is_dir() else self.path.parent
        if self.is_nanogpt:
            tokenizer = read_nanogpt_tokenizer(folder, self.vocab_size)
        else:
            tokenizer = read_tokenizer(folder)
        if not 0 <= self.vocab_size - tokenizer.vocab_size < PADDED_TO:
            raise LabError(
                f"from={self.path}: its tokenizer has {tokenizer.vocab_size:,} ids, and its "
                f"embedding {self.vocab_size:,} rows, of which no more than {PADDED_TO - 1} can be "
                "padding"
            )
        return tokenizer


def _too_much(what: str, has: int) -> str:
    return f"{what}, and this machine has {has:,} bytes of memory"


def find_foreign(path: str) -> Foreign | None:
    """The weights that a path names; None if it is none that others wrote.

    A folder with a config.json, a file in it, or nanoGPT's ckpt.pt (or its folder).

    Raises:
        LabError: if they are of another architecture, damaged, or not all there.
    """
    foreign = _foreign_at(path)
    if foreign is not None:
        foreign.check()
    return foreign


def _foreign_at(path: str) -> Foreign | None:
    named = path_typed(path, "from")
    if (named / RUN_CONFIG).is_file():
        return None
    if named.is_dir() and (named / NANOGPT).is_file():
        named = named / NANOGPT
    if named.is_file() and named.suffix in (".pt", ".pth"):
        return _of_nanogpt(named)
    folder = named.parent if named.is_file() else named
    if (folder / CONFIG).is_file():
        return _of_hugging_face(named, folder)
    looks_like_a_hub_id = path.startswith(("gpt2", "distilgpt2", "openai-community/"))
    if looks_like_a_hub_id and not named.exists():
        raise LabError(
            f"from={path}: no such directory; nothing is downloaded here: fetch the model "
            f"({CONFIG}, {TENSORS[0]}, tokenizer.json), and give the folder"
        )
    return None


def _of_hugging_face(named: Path, folder: Path) -> Foreign:
    config = _json(folder / CONFIG)
    for key, expected in EXPECTED.items():
        value = config.get(key, None if key == "model_type" else expected)
        if value != expected:
            raise LabError(
                f"from={named}: {CONFIG} has {key}={value!r}, and {expected!r} can be read (GPT-2)"
            )
    activation = config.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in GELU:
        raise LabError(
            f"from={named}: {CONFIG} has activation_function={activation!r}; "
            f"{', '.join(GELU)} can be read"
        )
    sizes = _sizes(named, {"n_positions": config.get("n_ctx"), **config}, "n_positions")
    if config.get("n_inner") not in (None, 4 * sizes["n_embd"]):
        raise LabError(f"from={named}: {CONFIG} has n_inner={config['n_inner']}, not 4 n_embd")
    tied = _switch(named, config, "tie_word_embeddings")
    model = {**_shape(sizes), "bias": True, "tied": tied, "gelu": GELU[activation]}
    files = _files(named, folder)
    return Foreign(named, files, model, sizes["vocab_size"], sizes["n_positions"], False)


def _files(named: Path, folder: Path) -> tuple[Path, ...]:
    """The files with the tensors: the one that was named, or what the folder has."""
    if named.is_file() and named.name != CONFIG and not named.name.endswith(".json"):
        return (named,)
    for name in TENSORS:
        if not (folder / name).is_file():
            continue
        if not name.endswith(".json"):
            return (folder / name,)
        shards = _json(folder / name).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise LabError(f"{folder / name} names no files")
        files = sorted({folder / Path(str(shard)).name for shard in shards.values()})
        for file in files:
            if not file.is_file():
                raise LabError(f"from={named}: {file.name} is missing, which {name} names")
        return tuple(files)
    raise LabError(f"from={named}: there is a {CONFIG}, but none of {', '.join(TENSORS)}")


def _of_nanogpt(named: Path) -> Foreign:
    arguments = _nanogpt(named)["model_args"]
    sizes = _sizes(named, arguments, "block_size")
    bias = _switch(named, arguments, "bias")
    model = {**_shape(sizes), "bias": bias, "tied": True, "gelu": "none"}
    return Foreign(named, (named,), model, sizes["vocab_size"], sizes["block_size"], True)


def _sizes(named: Path, config: Mapping[str, Any], positions: str) -> dict[str, int]:
    """The sizes that a config has, checked; `positions` is its word for the block size."""
    sizes = {}
    for key in ("n_layer", "n_head", "n_embd", "vocab_size", positions):
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise LabError(f"from={named}: {key}={value!r} where a positive number is expected")
        sizes[key] = value
    if sizes["n_embd"] % sizes["n_head"]:
        raise LabError(
            f"from={named}: n_embd={sizes['n_embd']} is not divisible by n_head={sizes['n_head']}"
        )
    return sizes


def _shape(sizes: Mapping[str, int]) -> dict[str, Any]:
    return {key: sizes[key] for key in ("n_layer", "n_head", "n_embd")}


def _switch(named: Path, config: Mapping[str, Any], key: str) -> bool:
    """True where a config does not say."""
    value = config.get(key, True)
    if not isinstance(value, bool):
        raise LabError(f"from={named}: {key}={value!r} where true or false is expected")
    return value


def _nanogpt(path: Path) -> dict[str, Any]:
    """What nanoGPT's train.py saved."""
    from lmlab.exchange.tensor_files import unpickled

    checkpoint = unpickled(path)
    for key in ("model", "model_args"):
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(key), dict):
            raise LabError(f"from={path} is no checkpoint of nanoGPT's: it has no {key}")
    return checkpoint


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_small(path, MOST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise LabError(f"{path} is no JSON object")
    return content
