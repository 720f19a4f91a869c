"""What a config may say to a class or a function, by its signature alone."""

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from hydra.utils import get_object
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from lmlab.bounds import Count, Positive
from lmlab.config.targets import Target, named, signature
from lmlab.errors import LabError

if TYPE_CHECKING:
    from nowhere import Thing

SOURCE = """
from typing import Annotated, Any, Literal
from pydantic import Field
from lmlab.bounds import Count, Divides, Given
from lmlab.models.transformer import Layer
class Inner:
    def __init__(self, width: int, depth: Count): ...
class Outer:
    def __init__(self, width: int, made: Inner, parts: list[Inner] = (), layer: Layer = None,
                 handed: Annotated[Any, Given("width")] = None, rate: float = 1,
                 pair: tuple[float, int] = (1, 2), kind: Literal["a", "b"] = "a"): ...
class Odd:
    def __init__(self, flag: Annotated[str, Field(ge=1)]): ...
class Anything:
    def __init__(self, first: int, **others): ...
class Rule:
    def __init__(self, params, lr, betas=(0.9, 0.99), eps: "float | None" = None, *, foreach=None):
        ...
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    (tmp_path / "targets_of_mine.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)

    def checked(name: str, how: Target | None = None, **node: Any) -> dict[str, Any]:
        adapter = TypeAdapter(dict[str, Annotated[dict[str, Any], how or Target("key")]])
        return adapter.validate_python({"key": {"_target_": f"targets_of_mine.{name}", **node}})[
            "key"
        ]

    return checked


def inner(**more: Any) -> dict[str, Any]:
    return {"_target_": "targets_of_mine.Inner", **more}


def refused(check, *args: Any, **node: Any) -> list[tuple[tuple, str]]:
    with pytest.raises(ValidationError) as caught:
        check(*args, **node)
    return [(error["loc"], error["type"]) for error in caught.value.errors()]


def test_nodes_are_checked_at_any_depth(check):
    whole = inner(width=1, depth=2)
    assert check("Outer", width=1, made=whole, parts=[whole])["made"] == whole
    assert refused(check, "Outer", width=1, made=inner(width=1, depth=0)) == [
        (("key", "made", "depth"), "greater_than_equal")
    ]
    deep = [whole, {"x": inner(width=1, depth="2", more=1)}]
    assert set(refused(check, "Outer", width=1, made=[deep])) == {
        (("key", "made", 0, 1, "x", "depth"), "int_type"),
        (("key", "made", 0, 1, "x", "more"), "unknown_argument"),
    }
    assert refused(check, "Outer", width=1, made=inner()) == [
        (("key", "made", "width"), "missing"),
        (("key", "made", "depth"), "missing"),
    ]


def test_of_a_partial_node_only_what_nobody_hands_over_is_asked_for(check):
    partial = inner(_partial_=True)
    assert check("Outer", width=1, made=partial)  # nobody knows what it will be called with
    assert refused(check, "Outer", width=1, made=1, handed=partial) == [
        (("key", "handed", "depth"), "missing")
    ]
    assert refused(check, "Outer", width=1, made=1, handed={**partial, "width": 1, "depth": 1}) == [
        (("key", "handed", "width"), "unknown_argument")
    ]
    assert refused(check, "Outer", width=1, made=1, layer=partial) == [
        (("key", "layer", "width"), "missing"),  # a Layer is called with n_embd
        (("key", "layer", "depth"), "missing"),
    ]


def test_what_hydra_does_not_make_is_not_checked(check):
    assert check("Outer", width=1, made=inner(depth=0), _recursive_=False)
    assert check("Inner", _args_=[1, 2])


def test_types_are_strict_but_whole_numbers_become_floats_and_lists_are_tuples(check):
    found = check("Outer", width=1, made=None, rate=2, pair=[1, 2], kind="b")
    assert [type(x) for x in (found["rate"], *found["pair"])] == [float, float, int]
    for bad in ({"rate": "2"}, {"pair": [1, 2, 3]}, {"pair": [1, 2.0]}, {"kind": "c"}):
        ((loc, _),) = refused(check, "Outer", width=1, made=None, **bad)
        assert loc[1] in bad
    assert refused(check, "Outer", width=True, made=None) == [(("key", "width"), "int_type")]


def test_other_keywords_are_taken_where_there_is_room_for_them(check):
    assert check("Anything", first=1, second="2")["second"] == "2"
    assert refused(check, "Anything", first=1, second=inner(width=1)) == [
        (("key", "second", "depth"), "missing")
    ]


def test_what_is_not_there_is_refused_by_its_key(check):
    with pytest.raises(ValidationError) as caught:
        check("Outer", width=1, made=inner(width=1, depth=1), parts=[{"_target_": "nowhere.Part"}])
    (error,) = caught.value.errors()
    assert error["loc"] == ("key", "parts", 0, "_target_")
    assert error["msg"] == "cannot be imported: No module named 'nowhere'"
    assert refused(check, "Outre") == [(("key", "_target_"), "not_there")]
    with pytest.raises(LabError, match=r"did you mean targets_of_mine\.Outer\?$"):
        named("targets_of_mine.Outre")


OPTIMIZER = Target("key", positional=1, bounds={"lr": Positive, "betas": Positive, "eps": Positive})


def test_bounds_are_for_floats_that_have_none(check):
    assert check("Rule", OPTIMIZER, lr=1, betas=[1, 2], eps=None)["lr"] == 1.0
    assert {loc for loc, _ in refused(check, "Rule", OPTIMIZER, lr=0.1, eps=0.0)} == {
        ("key", "eps")
    }
    for bad in ({"lr": -1.0}, {"lr": 1.0, "betas": [1.0, -1.0]}):
        name = [*bad][-1]
        assert all(loc[:2] == ("key", name) for loc, _ in refused(check, "Rule", OPTIMIZER, **bad))
    assert refused(check, "Rule", OPTIMIZER, lr=1.0, params=[]) == [
        (("key", "params"), "unknown_argument")
    ]


def test_keys_beside_the_arguments_have_their_own_types(check):
    how = Target("key", more={"matches": Annotated[str, ...]})
    assert check("Inner", how, width=1, depth=1, matches="x")["matches"] == "x"
    assert refused(check, "Inner", how, width=1, depth=1) == [(("key", "matches"), "missing")]


def test_a_bound_that_does_not_go_with_its_type_is_the_authors_to_correct(check):
    with pytest.raises(LabError, match=r"key: the annotations of targets_of_mine\.Odd: "):
        check("Odd", flag="x")


def test_nothing_that_is_left_out_is_imported():
    adapter = TypeAdapter(Annotated[dict[str, Any], Target("key")])
    node = {"_target_": "nowhere.Part"}
    assert adapter.validate_python(node, context={"left": ("key",)}) == node
    with pytest.raises(ValidationError):
        adapter.validate_python(node, context={"left": ("other",)})


# --- signatures ------------------------------------------------------------------------------


class Base:
    def __init__(self, size: Count, thing: "Thing" = None, pair: tuple[int, float] = (1, 2)): ...  # type: ignore[assignment]

    @classmethod
    def fit(cls, text: str, size: int): ...


class Heir(Base): ...


class Checked:
    def __init__(self, x: Annotated[int, AfterValidator(abs), Field(le=3)], *rest, **others): ...


def types_of(call: Any) -> dict[str, Any]:
    takes = signature(call)
    assert takes is not None
    return {name: p.annotation for name, p in takes.parameters.items()}


def test_an_annotation_that_cannot_be_resolved_is_any_and_the_others_stay():
    types = types_of(Heir)
    assert types["size"] == Count
    assert types["thing"] is Any
    assert "tuple[int, float]" in str(types["pair"])
    assert types_of(Heir.fit) == {"text": str, "size": int}


def test_of_anything_else_than_a_class_or_a_function_nothing_is_known():
    for call in (len, None, 3, types_of.__code__, int):
        assert signature(call) is None
    assert signature(object) == inspect.Signature()


@pytest.mark.parametrize(
    "target",
    [
        "lmlab.models.gpt.GPT",
        "lmlab.training.optimizers.schedules.cosine",
        "lightning.pytorch.callbacks.EarlyStopping",
        "torch.optim.Adafactor",
        "torch.nn.Tanh",
    ],
)
def test_it_has_the_names_and_defaults_of_pythons_own(target):
    ours, pythons = signature(named(target)), inspect.signature(get_object(target))
    assert ours is not None
    strip = {name: p.replace(annotation=p.empty) for name, p in ours.parameters.items()}
    assert strip == {n: p.replace(annotation=p.empty) for n, p in pythons.parameters.items()}


def test_torchs_numbers_are_numbers():
    types = types_of(named("torch.optim.AdamW"))
    assert (types["weight_decay"], types["amsgrad"], types["lr"]) == (float, bool, float | Any)
