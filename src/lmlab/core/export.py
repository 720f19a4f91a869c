"""`scripts/export.py`: a trained model in a form that others read."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import safetensors.torch

from lmlab.config.schema import Export
from lmlab.console import quiet_libraries, say
from lmlab.errors import LabError
from lmlab.files import path_typed
from lmlab.runs.directory import RunDirectory
from lmlab.training.beginning.restored import Trained, restore

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"

# Files by name (texts, and what becomes JSON), the weights, and what a person should know of both.
Exported: TypeAlias = "tuple[dict[str, Any], dict[str, Tensor], list[str]]"


def export(config: Export) -> Path:
    """Write the folder that was asked for, whole or not at all.

    Raises:
        LabError: if the model has no form there, or the folder is not empty.
    """
    quiet_libraries()
    folder = path_typed(config.folder, "folder")
    if ".." in folder.parts:
        folder = Path(os.path.realpath(folder))  # x/.. is to make no x
    _check_free(folder)
    trained = restore(RunDirectory.open(config.run), config.checkpoint)
    make = {"hf": _hugging_face, "safetensors": _plain}[config.to]
    files, tensors, remarks = make(trained)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        try:
            for name, content in files.items():
                is_text = isinstance(content, str)
                text = content if is_text else _json(content)
                (temporary / name).write_text(text, encoding="utf-8")
            (temporary / WEIGHTS).write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
            if folder.is_dir():
                folder.rmdir()  # it is empty
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise LabError(f"cannot write {folder}: {error.strerror or error}") from error
    n_numbers = sum(tensor.numel() for tensor in tensors.values())
    say(f"{trained.path} (step {trained.step})")
    say(f"{folder}: {', '.join([*files, WEIGHTS])}; {n_numbers:,} numbers")
    for remark in remarks:
        say(remark)
    return folder


def _check_free(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise LabError(f"folder={folder} is not empty; give one that is, or a new one")
    if folder.exists() and not folder.is_dir():
        raise LabError(f"folder={folder} is a file")


def _plain(trained: Trained) -> Exported:
    """The weights by the lab's own names, with the model's config and the tokenizer."""
    state = trained.model.state_dict()
    tied = {tensor.data_ptr(): name for name, tensor in reversed(state.items())}
    tensors = {name: state[name].contiguous() for name in state if name in tied.values()}
    about = {"model": trained.config.model, "data": trained.config.data.plain()}
    return {"lmlab.json": {**about, "tokenizer": trained.tokenizer.stored()}}, tensors, []


def _hugging_face(trained: Trained) -> Exported:
    """What transformers' AutoModelForCausalLM and AutoTokenizer load."""
    from lmlab.exchange import gpt2, llama, own_file, tokenizer_files
    from lmlab.models.gpt import GPT
    from lmlab.models.modern import Modern

    model, remarks, files = trained.model, [], {}
    block_size, tokenizer = trained.config.data.block_size, trained.tokenizer
    vocab_size = tokenizer.vocab_size
    end = tokenizer.end_of_text  # where one document ends another begins
    generation = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": None}
    if type(model) is GPT:
        config, tensors = gpt2.exported(model)
    elif type(model) is Modern and not any(llama.in_the_way(model)):
        config, tensors = llama.exported(model)
        remarks = list(llama.caveats(model))
    else:
        node = trained.config.model
        config, tensors, source = own_file.exported(model, node, vocab_size, block_size)
        files = {
            f"{own_file.FILE}.py": source,
            own_file.GENERATION: {**generation, "use_cache": False},
        }
        remarks = list(own_file.remarks(model))
    files = {
        "config.json": {
            **config,
            **generation,
            "vocab_size": vocab_size,
            "torch_dtype": "float32",
        },
        **files,
        tokenizer_files.TOKENIZER: tokenizer_files.tokenizer_json(tokenizer),
        tokenizer_files.ABOUT: tokenizer_files.tokenizer_config(tokenizer, block_size),
    }
    in_float32 = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    return files, in_float32, remarks


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
