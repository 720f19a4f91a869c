"""A device that is not there: `absent`, whose tensors cannot be mixed with those of the CPU.

It computes on the CPU, so that its results are the CPU's to the last bit, and it refuses what a GPU
refuses. Each argument of `python tests/absent_device.py` is a command of the lab's, its words on
lines.
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

_setup_privateuseone_for_python_backend("absent")
DEVICE = torch.device("absent:0")

aten = torch.ops.aten
# As on a GPU: what copies from one device to another, and indices, which may stay on the CPU.
MAY_MIX = {aten._to_copy.default, aten.copy_.default, aten.index.Tensor, aten.index_put_.default}


class Absent(torch.Tensor):
    """A tensor on the device `absent`; `numbers` holds its numbers."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> "Absent":
        with torch.inference_mode(False):  # a view of it may be taken in either mode
            absent = torch.Tensor._make_wrapper_subclass(
                cls,
                numbers.size(),
                strides=numbers.stride(),
                storage_offset=numbers.storage_offset(),
                dtype=numbers.dtype,
                device=DEVICE,
            )
        absent.numbers = numbers
        return absent

    def tolist(self) -> Any:
        return self.numbers.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.numbers.__reduce_ex__(protocol)  # a file is on no device

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, *args, **(kwargs or {}))


def compute(func: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation on the CPU, its results on the device that it belongs to."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    from_there = any(isinstance(x, Absent) for x in tensors)
    from_here = [x for x in tensors if not isinstance(x, Absent) and x.dim() > 0]
    if from_there and from_here and func not in MAY_MIX:
        raise RuntimeError(f"{func}: expected all tensors on one device, found absent:0 and cpu")
    device = kwargs.get("device")
    goes_there = from_there if device is None else torch.device(device).type == "absent"
    if func is aten.copy_.default:
        goes_there = isinstance(args[0], Absent)
    cpu_kwargs = {k: _numbers(v) for k, v in kwargs.items()}
    if device is not None:
        cpu_kwargs["device"] = "cpu"
    if kwargs.get("pin_memory"):
        cpu_kwargs["pin_memory"] = False
    out = func(*tree_map(_numbers, args), **cpu_kwargs)
    for x in tensors:
        assert not isinstance(x, Absent) or x.shape == x.numbers.shape, f"{func} resizes a tensor"
    if goes_there:
        out = tree_map(lambda x: Absent(x) if isinstance(x, torch.Tensor) else x, out)
        if from_there:
            return return_and_correct_aliasing(func, args, kwargs, out)
    return out


def _numbers(value: Any) -> Any:
    return value.numbers if isinstance(value, Absent) else value


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


class AbsentAccelerator(Accelerator):
    """One device that is absent."""

    def setup_device(self, device: torch.device) -> None:
        assert device.type == "absent"

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
        return "absent"


AcceleratorRegistry.register("absent", AbsentAccelerator, description="a device that is not there")
# Lightning takes a single device that it does not know for the CPU.
accelerator_connector.SingleDeviceStrategy = lambda device: SingleDeviceStrategy(DEVICE)

if __name__ == "__main__":
    from lmlab import cli

    for words in sys.argv[1:]:
        sys.argv = words.split("\n")
        getattr(cli, sys.argv[0])()
        print("\f", end="")
