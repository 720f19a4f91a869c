"""What the nodes of a config stand for: Hydra's `instantiate`, for values that are checked already.

It knows nothing of the lab's, since it is written into the files of models that leave it, too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

# The keys of a node that are Hydra's own.
HYDRAS = {"_partial_": bool, "_recursive_": bool, "_convert_": str, "_args_": list}


def instantiate(node: Any, get_object: Callable[[str], Any], /, **more: Any) -> Any:
    """What a value stands for, nodes in it made first; `more` are arguments as they are.

    `get_object` takes what a `_target_` says to the class or function that it names.
    """
    if isinstance(node, list):
        return [instantiate(child, get_object) for child in node]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {name: instantiate(child, get_object) for name, child in node.items()}

    def inside(child: Any) -> Any:
        return instantiate(child, get_object) if is_recursive(node) else copy.deepcopy(child)

    positional = [inside(child) for child in node.get("_args_", [])]
    named = {k: inside(v) for k, v in node.items() if k != "_target_" and k not in HYDRAS} | more
    make = partial(get_object(node["_target_"]), *positional, **named)
    return make if node.get("_partial_") else make()


def is_recursive(node: dict[str, Any]) -> bool:
    """Whether nodes below one with a `_target_` are made; else they are arguments as they are."""
    return bool(node.get("_recursive_", True))
