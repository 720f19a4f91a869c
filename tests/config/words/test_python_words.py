"""Python's values, as a config has them: taken as they are, or refused by key."""

import decimal
import enum
import pathlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lmlab.config.words.python_words import axis_of, is_several, plain, words_of
from lmlab.errors import LabError


class Kind(enum.StrEnum):
    HEAD = "head"


DEEP: Any = 1
for _ in range(3000):
    DEEP = [DEEP]
CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)

SPECIAL = st.sampled_from(["${seed}", "\\\\", "$", "{", "}", "'", '"', ",", "=", "null", "a "])
TEXTS = st.lists(SPECIAL | st.characters(exclude_categories=["Cs", "Cc"]), max_size=8).map("".join)


@settings(max_examples=100, deadline=None)
@given(TEXTS.filter(lambda text: text != "???"))  # of OmegaConf's: there is no value
def test_texts_arrive_as_they_are(text):
    (word,) = words_of({"callbacks": {"sample": {"prompt": text}}})
    (override,) = OverridesParser.create().parse_overrides([word])
    assert override.key_or_group == "callbacks.sample.prompt"
    assert not override.is_sweep_override()
    cfg = OmegaConf.create({"seed": 1, "prompt": None})
    OmegaConf.update(cfg, "prompt", override.value())
    assert OmegaConf.to_container(cfg, resolve=True) == {"seed": 1, "prompt": text}


def test_values_arrive_as_they_are():
    words = words_of(
        {"a": None, "b": True, "c": [1, 2.5, "x,y"], "d": {"e": {"f": 1e-9}}, "run": "a b"}
    )
    assert words == ["a=null", "b=true", "c=[1,2.5,'x,y']", "d.e.f=1e-09", "run=a b"]
    assert words_of({"run": None, "from": None}) == []
    assert axis_of("from", ["a b", "c"]) == "from='a b',c"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.longdouble(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a b"), "a b"),
        (np.array(3), 3),
        (np.array([[1, 2]]), [[1, 2]]),
        (torch.tensor(3), 3),
        (torch.tensor([0.5], dtype=torch.bfloat16, requires_grad=True), [0.5]),
        (pd.Series([1, 2]), [1, 2]),
        (range(2), [0, 1]),
        (pathlib.Path("a/b"), "a/b"),
        (Kind.HEAD, "head"),
        (OmegaConf.create({"a": [1, {"b": None}]}), {"a": [1, {"b": None}]}),
    ],
)
def test_values_of_others_become_plain(value, expected):
    came = plain(value, "key")
    assert came == expected
    assert type(came) is type(expected)
    assert is_several(value) == isinstance(expected, list)


@pytest.mark.parametrize(
    "value",
    [
        *(object(), object, len, ..., {1, 2}, b"x", bytearray(b"x"), memoryview(b"x"), iter([1])),
        *(1j, np.complex64(1), torch.tensor(1j), decimal.Decimal(1), pd.NA, torch.float32),
        *(np.datetime64("2020"), np.timedelta64(3, "ns"), np.array(["2020"], "datetime64[ns]")),
        *(torch.empty(2, device="meta"), torch.eye(2).to_sparse(), pd.DataFrame({"a": [1]})),
        *("a\0b", "\ud800", ["\udcff"], 10**5000, CIRCLE, DEEP, {1: 2}, {"a=b": 1}),
        *({"": 1}, {"a": {"b c": 1}}, [{"x": {"y": object()}}], np.ndarray),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_refused_by_key(value):
    with pytest.raises(LabError, match=r"^key") as raised:
        words_of({"key": value})
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "container",
    [
        OmegaConf.create({"a": "${nowhere}"}),
        OmegaConf.create({"a": "???"}),
        OmegaConf.create(["${oc.env:NOT_SET_ANYWHERE}"]),
    ],
)
def test_a_config_of_omegaconf_that_cannot_be_resolved_is_refused_by_key(container):
    with pytest.raises(LabError, match=r"^trainer: .*"):
        words_of({"trainer": container})


def test_a_config_of_omegaconf_is_resolved():
    resolved = OmegaConf.create({"a": 1, "b": "${a}"})
    assert words_of({"trainer": resolved}) == ["trainer.a=1", "trainer.b=1"]


@pytest.mark.parametrize("values", [range(10**12), range(10**30), [1] * 10**6, np.arange(10**6)])
def test_rows_without_end_are_refused_before_they_are_written(values):
    with pytest.raises(LabError, match="at most 100,000"):
        words_of({"seed": values})
    if isinstance(values, range):
        assert axis_of("seed", values) == f"seed=range(0,{values.stop},1)"


def test_an_axis_without_values_is_refused():
    for empty in ([], range(0), np.array([]), torch.empty(0)):
        assert is_several(empty)
        with pytest.raises(LabError, match=r"^seed=\[\]: a sweep needs at least one value"):
            axis_of("seed", empty)
