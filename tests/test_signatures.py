"""Signatures read from source agree with those that importing gives, and need no import."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_object

from lmlab.config.signatures import signature
from lmlab.config.stored import conf_dir


def targets() -> list[str]:
    """Every `_target_` of conf/."""

    def inside(node: Any) -> list[str]:
        found = [node["_target_"]] if isinstance(node, dict) and "_target_" in node else []
        children = (
            node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        )
        return [*found, *(target for child in children for target in inside(child))]

    groups = ("callbacks", "corpus", "logger", "model", "optimizer", "schedule")
    files = [path for group in groups for path in (conf_dir() / group).glob("*.yaml")]
    return sorted({target for path in files for target in inside(yaml.safe_load(path.read_text()))})


MORE = ["torch.optim.NAdam", "torch.optim.Adafactor", "torch.optim.LBFGS", "torch.nn.Identity"]
MORE += ["torch.nn.Tanh", "lightning.pytorch.callbacks.EarlyStopping"]
MORE += ["lightning.pytorch.callbacks.EMAWeightAveraging", "lightning.pytorch.loggers.CSVLogger"]
MORE += ["lmlab.data.tokenizer.CharTokenizer.fit", "lmlab.models.transformer.FeedForward"]


@pytest.mark.parametrize("target", [*targets(), *MORE])
def test_it_is_the_signature_that_python_has(target):
    ours, theirs = signature(target), inspect.signature(get_object(target))
    assert ours is not None
    assert list(ours.parameters) == list(theirs.parameters)
    for name, parameter in theirs.parameters.items():
        assert ours.parameters[name].kind == parameter.kind
        if ours.parameters[name].default is not ...:
            assert ours.parameters[name].default == parameter.default


PACKAGE = {
    "__init__.py": "raise RuntimeError('imported')\n",
    "sizes.py": (
        "from typing import Annotated as A\n"
        "from pydantic import Field\n"
        "import lmlab.bounds as bounds\n"
        "Small = A[int, Field(ge=1, le=9)]\n"
        "Rate = bounds.Positive\n"
        "def work(): raise RuntimeError('called')\n"
        "Worked = work()\n"
    ),
    "base.py": (
        "import torch\n"
        "from .sizes import Rate as HowFast, Small, Worked\n"
        "class Base(torch.nn.Module):\n"
        "    def __init__(self, size: Small, rate: 'HowFast' = 0.5, *, worked: Worked = None,\n"
        "                 t: torch.Tensor | None = None, pair: tuple[int, float] = (1, 2)): ...\n"
        "    def method(self, x: int): ...\n"
    ),
    "models.py": (
        "from collections.abc import Sequence\n"
        "from dataclasses import dataclass\n"
        "from functools import cache\n"
        "from typing import Annotated, Generic, TypeVar\n"
        "from pydantic import AfterValidator, Field\n"
        "from pkg import base\n"
        "T = TypeVar('T')\n"
        "class Heir(Generic[T], base.Base): pass\n"
        "Alias = Heir\n"
        "class Nothing: pass\n"
        "@dataclass\n"
        "class Made: x: int\n"
        "class Two(base.Base, Nothing): pass\n"
        "def check(x): raise RuntimeError('called')\n"
        "class Checked:\n"
        "    def __init__(self, x: Annotated[int, AfterValidator(check), Field(le=3)]): ...\n"
        "class Open:\n"
        "    def __init__(self, sizes: Sequence[int], **others): ...\n"
        "@cache\n"
        "def cached(x: int): ...\n"
        "if T: class_twice = 1\n"
        "else: class_twice = 2\n"
        "class Circle(Circle): pass\n"
    ),
    "exports.py": "from .models import *\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "pkg"
    folder.mkdir()
    for name, source in PACKAGE.items():
        (folder / name).write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.parametrize("target", ["models.Heir", "models.Alias", "models.Two", "exports.Heir"])
def test_imports_aliases_and_base_classes_are_followed(package, target):
    found = signature(f"pkg.{target}")
    assert found is not None
    assert list(found.parameters) == ["size", "rate", "worked", "t", "pair"]
    kinds = {name: str(p.annotation) for name, p in found.parameters.items()}
    assert "Ge(ge=1), Le(le=9)" in kinds["size"]
    assert "Gt(gt=0)" in kinds["rate"]
    assert kinds["worked"] == "typing.Optional[typing.Any]"  # nothing was called to find out
    assert kinds["t"] == "typing.Optional[typing.Any]"
    assert "tuple[int, float]" in kinds["pair"]
    assert not any(name.partition(".")[0] == "pkg" for name in sys.modules)


def test_what_cannot_be_read_has_no_signature(package):
    for target in ("Made", "cached", "class_twice", "Circle", "Gone", "Open.gone", "Open.x.y"):
        assert signature(f"pkg.models.{target}") is None
    for target in ("", "os", "os.getcwd", "nosuch.Thing", "pkg.nosuch.Thing", "..", "lmlab"):
        assert signature(target) is None
    (package / "models.py").write_text("class Heir(:\n")
    assert signature("pkg.models.Heir") is None
    assert signature("pkg.models.Nothing") is None


def test_a_class_without_a_constructor_takes_nothing_and_keywords_may_be_any(package):
    assert str(signature("pkg.models.Nothing")) == "()"
    found = signature("pkg.models.Open")
    assert found is not None
    assert found.parameters["others"].kind is inspect.Parameter.VAR_KEYWORD
    assert found.parameters["sizes"].annotation == list[int]


def test_of_an_annotation_only_types_and_bounds_are_kept(package):
    annotation = str(signature("pkg.models.Checked").parameters["x"].annotation)
    assert "Le(le=3)" in annotation
    assert "AfterValidator" not in annotation


def test_a_changed_file_is_read_anew(package):
    assert signature("pkg.models.Nothing") == inspect.Signature()
    source = (package / "models.py").read_text()
    changed = source.replace("Nothing: pass", "Nothing:\n    def __init__(self, new: int): ...")
    (package / "models.py").write_text(changed)
    assert list(signature("pkg.models.Nothing").parameters) == ["new"]


def test_reading_imports_neither_torch_nor_what_is_read():
    code = (
        "import sys; from lmlab.config.signatures import signature\n"
        "assert signature('lmlab.models.gpt.GPT') and signature('torch.optim.AdamW')\n"
        "assert not {'torch', 'lmlab.models', 'lightning'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_dataclasses_are_left_to_themselves():
    assert dataclasses.is_dataclass(get_object("lmlab.data.corpus.Corpus"))
    assert signature("lmlab.data.corpus.Corpus") is None
