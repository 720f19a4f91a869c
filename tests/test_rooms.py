"""Which room of the house may import from which: arrows run one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
MODULES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts): path
    for path in sorted(SRC.rglob("*.py"))
    if path.name != "__init__.py"
} | {"lmlab_tensorboard": SRC / "lmlab_tensorboard" / "__init__.py"}

# From the ground up: a room imports from those below it, and those of one floor not each other.
FLOORS = (
    ("errors", "bounds", "output"),
    ("files", "models"),
    ("console", "config"),
    ("data",),
    ("exchange", "tasks"),
    ("runs",),
    ("training",),
    ("display",),
    ("core",),
    ("sweeps",),
    ("handles", "cli", "hydra_plugins", "lmlab_tensorboard"),
    ("api", "__main__"),
)
FLOORS_OF_SWEEPS = (
    ("table", "journal"),
    ("compare", "kept", "live"),
    ("figures",),
    ("report",),
    ("board",),
    ("reporting", "tabs"),
    ("launch", "command"),
    ("search", "board_command", "records"),
)
HOUSES = {"lmlab": FLOORS, "lmlab.sweeps": FLOORS_OF_SWEEPS}
OF_WINDOWS = ("lmlab.data.ids", "lmlab.data.ids.Ids")

# Packages that a room never imports, not even inside a function.
NEVER = {
    "models": ("lightning", "hydra", "omegaconf"),
    "data": ("hydra",),
    "training": ("hydra",),
    "display": ("hydra",),
    "core": ("hydra",),
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str, house: str) -> str:
    return module.removeprefix(f"{house}.").split(".")[0]


@pytest.mark.parametrize("house", HOUSES)
def test_a_module_imports_only_what_stands_below_it(house):
    inside = [name for name in MODULES if house == "lmlab" or name.startswith(f"{house}.")]
    floor = {room: floor for floor, rooms in enumerate(HOUSES[house]) for room in rooms}
    for module in inside:
        room = room_of(module, house)
        for name in imported(MODULES[module]):
            if name in inside and room_of(name, house) != room:
                assert floor[room_of(name, house)] < floor[room], f"{module} imports {name}"


@pytest.mark.parametrize("room", NEVER)
def test_a_room_knows_nothing_of_some_packages(room):
    for module, path in MODULES.items():
        if room_of(module, "lmlab") == room:
            packages = {name.partition(".")[0] for name in imported(path)}
            assert packages.isdisjoint(NEVER[room]), module


def test_modules_import_each_other_in_no_circle():
    above = {m: {name for name in imported(path) if name in MODULES} for m, path in MODULES.items()}
    while ground := {module for module, below in above.items() if not below}:
        above = {m: below - ground for m, below in above.items() if m not in ground}
    assert above == {}


def test_windows_stand_alone():
    data = SRC / "lmlab" / "data"
    names = {*imported(data / "windows.py"), *imported(data / "ids.py")}
    assert {name.partition(".")[0] for name in names if name not in OF_WINDOWS} <= {
        "__future__",
        "collections",
        "functools",
        "itertools",
        "numpy",
        "torch",
        "typing",
        "warnings",
    }


def test_no_two_modules_share_a_name():
    names = [path.stem for path in MODULES.values()]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_no_module_is_called_like_a_library_that_it_imports():
    for path in MODULES.values():
        assert path.stem not in {name.partition(".")[0] for name in imported(path)}, path
