"""Which room of the house may import from which: arrows run one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "lmlab"
MODULES = sorted(path for path in SRC.rglob("*.py") if path.name != "__init__.py")

# By room: the packages and rooms that it never imports, not even inside a function.
NEVER = {
    "models": ("lightning", "hydra", "omegaconf", "lmlab.data", "lmlab.training", "lmlab.display"),
    "data": ("hydra", "lmlab.models", "lmlab.training", "lmlab.display", "lmlab.sweeps"),
    "training": ("hydra", "lmlab.display", "lmlab.sweeps", "lmlab.cli"),
    "display": ("hydra", "lmlab.sweeps", "lmlab.train", "lmlab.cli"),
    "sweeps": ("lmlab.cli",),
    "training_run.py": ("hydra", "lmlab.sweeps", "lmlab.cli"),
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", NEVER)
def test_a_room_imports_only_what_stands_below_it(room):
    found = [path for path in MODULES if path.relative_to(SRC).parts[0] == room]
    assert found
    for path in found:
        for name in imported(path):
            for never in NEVER[room]:
                assert not f"{name}.".startswith(f"{never}."), f"{path.name} imports {name}"


def test_windows_stand_alone():
    assert {name.partition(".")[0] for name in imported(SRC / "data" / "windows.py")} <= {
        "__future__",
        "collections",
        "torch",
    }


def test_no_two_modules_share_a_name():
    names = [path.stem for path in MODULES]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_no_module_is_called_like_a_library_that_it_imports():
    for path in MODULES:
        assert path.stem not in {name.partition(".")[0] for name in imported(path)}, path
