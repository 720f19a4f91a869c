"""A device that is not there: `far`, whose tensors cannot be mixed with those of the CPU.

It computes on the CPU, so that its results are the CPU's to the last bit, and it refuses what a GPU
refuses. Each argument of `python tests/far.py` is a command of the lab's, its words on lines.
"""

import functools
import sys
from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.connectors import accelerator_connector
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("far")
DEVICE = torch.device("far:0")

aten = torch.ops.aten
# As on a GPU: what copies from one device to another, and indices, which may stay on the CPU.
MAY_MIX = {aten._to_copy.default, aten.copy_.default, aten.index.Tensor, aten.index_put_.default}


class Far(torch.Tensor):
    """A tensor on the device `far`; `near` holds its numbers."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> "Far":
        with torch.inference_mode(False):  # a view of it may be taken in either mode
            far = torch.Tensor._make_wrapper_subclass(
                cls,
                near.size(),
                strides=near.stride(),
                storage_offset=near.storage_offset(),
                dtype=near.dtype,
                device=DEVICE,
            )
        far.near = near
        return far

    def tolist(self) -> Any:
        return self.near.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.near.__reduce_ex__(protocol)  # a file is on no device

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, *args, **(kwargs or {}))


def compute(func: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation on the CPU, its results on the device that it belongs to."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    far = any(isinstance(x, Far) for x in tensors)
    near = [x for x in tensors if not isinstance(x, Far) and x.dim() > 0]
    if far and near and func not in MAY_MIX:
        raise RuntimeError(f"{func}: expected all tensors on one device, found far:0 and cpu")
    device = kwargs.get("device")
    to_far = far if device is None else torch.device(device).type == "far"
    if func is aten.copy_.default:
        to_far = isinstance(args[0], Far)
    near_kwargs = {k: _near(v) for k, v in kwargs.items()}
    if device is not None:
        near_kwargs["device"] = "cpu"
    if kwargs.get("pin_memory"):
        near_kwargs["pin_memory"] = False
    out = func(*tree_map(_near, args), **near_kwargs)
    for x in tensors:
        assert not isinstance(x, Far) or x.shape == x.near.shape, f"{func} resizes a tensor"
    if to_far:
        out = tree_map(lambda x: Far(x) if isinstance(x, torch.Tensor) else x, out)
        if far:
            return return_and_correct_aliasing(func, args, kwargs, out)
    return out


def _near(value: Any) -> Any:
    return value.near if isinstance(value, Far) else value


library = torch.library.Library("_", "IMPL")
library.fallback(compute, "PrivateUse1")  # what makes tensors
aten_library = torch.library.Library("aten", "IMPL")
for operation in (  # torch's own way would resize a tensor
    *(aten.arange.default, aten.arange.start, aten.arange.start_step),
    *(aten.eye.default, aten.eye.m),
):
    aten_library.impl(operation, functools.partial(compute, operation), "PrivateUse1")

from_numbers = torch.tensor


def tensor(data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
    """torch.tensor, which has no way to a device that is written in Python."""
    made = from_numbers(data, **kwargs)
    return made if device is None else made.to(device)


torch.tensor = tensor


class FarAccelerator(Accelerator):
    """One device that is far."""

    def setup_device(self, device: torch.device) -> None:
        assert device.type == "far"

    def teardown(self) -> None:
        pass

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "far"


AcceleratorRegistry.register("far", FarAccelerator, description="a device that is not there")
# Lightning takes a single device that it does not know for the CPU.
accelerator_connector.SingleDeviceStrategy = lambda device: SingleDeviceStrategy(DEVICE)

if __name__ == "__main__":
    from lmlab import cli

    for words in sys.argv[1:]:
        sys.argv = words.split("\n")
        getattr(cli, sys.argv[0])()
        print("\f", end="")
