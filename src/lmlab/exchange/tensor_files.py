"""Tensors in files that others wrote: what a file says it holds, and its numbers."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lmlab.errors import LabError, first_line

FLOATS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Described(NamedTuple):
    """A tensor that is not read yet."""

    shape: tuple[int, ...]
    dtype: str  # as safetensors writes it


def described(path: Path) -> dict[str, Described]:
    """What the tensors of a file are, by name. Only the header of a safetensors file is read.

    Raises:
        LabError: if it is damaged, or holds what is no tensor.
    """
    if path.suffix != ".safetensors":
        return describe(path, unpickled(path))
    try:
        with safetensors.safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: Described(tuple(part.get_shape()), part.get_dtype())
                for name, part in parts.items()
            }
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def describe(path: Path, tensors: Any) -> dict[str, Described]:
    """The same for what was unpickled.

    Raises:
        LabError: naming what is no tensor of numbers in memory.
    """
    if not isinstance(tensors, Mapping):
        raise LabError(f"{path} holds a {type(tensors).__name__}, where tensors by name belong")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise LabError(f"{path}: {name} is a {kind}, where tensors by name belong")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            kind = "quantized" if tensor.is_quantized else f"{tensor.layout} on {tensor.device}"
            raise LabError(f"{path}: {name} is {kind}, where plain tensors belong")
    return {
        name: Described(tuple(tensor.shape), FLOATS.get(tensor.dtype, str(tensor.dtype)))
        for name, tensor in tensors.items()
    }


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        LabError: if it is damaged.
    """
    if path.suffix != ".safetensors":
        tensors: dict[str, Tensor] = unpickled(path)
        return tensors
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> LabError:
    return LabError(f"{path} is damaged or cut off ({first_line(error)})")


def _check_sizes(path: Path) -> None:
    """Refuse a zip of a few bytes that stand for gigabytes; torch compresses nothing."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("it holds more than its size")


def unpickled(path: Path) -> Any:
    """What torch.save wrote: tensors, whose numbers stay on the disk until they are asked for, and
    plain data.

    Raises:
        LabError: if it is damaged, or loading it would run code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of newer pickles, which it reads or refuses
            mapped = zipfile.is_zipfile(path)  # older files are one pickle
            if mapped:
                _check_sizes(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise LabError(f"{path} is refused: loading it would run code in it") from error
    except Exception as error:  # zipfile, torch and the unpickler each raise their own
        raise LabError(f"{path} is damaged or cut off") from error
