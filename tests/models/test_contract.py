"""What a model may say of itself: in one place, with defaults, and none of it needed."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import nn

from lmlab.models.contract import (
    Hooks,
    declares,
    give_sizes,
    n_head,
    pictured_as,
    takes_new_tokens_alone,
)
from lmlab.models.memory import Memory
from lmlab.models.sampling import generate

ROOT = Path(__file__).parents[2]
OF_A_MODEL = {hook.name for hook in fields(Hooks)}
OF_A_CLASS = {"past", "positionwise", "watch", "pictured_as", "n_head"}


class Plain(nn.Module):
    """Nothing but a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 7)
        self.read: list[int] = []  # how many tokens each call was given

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        self.read.append(idx.shape[1])
        return self.table(idx)


def test_a_model_that_says_nothing_has_the_defaults():
    assert Hooks.of(Plain()) == Hooks()
    assert not any(value for value in vars(Hooks()).values())


def test_a_model_has_what_it_says_as_attribute_of_itself_or_of_its_class():
    class Saying(Plain):
        endless = True

        def fit(self, tokens: torch.Tensor) -> None: ...

    model = Saying()
    model.sees, model.members = 3, nn.ModuleDict({"one": Plain()})
    hooks = Hooks.of(model)
    assert (hooks.sees, hooks.endless, hooks.fit) == (3, True, model.fit)
    assert hooks.members is model.members
    assert (hooks.prepare, hooks.next_token_logits, hooks.vocab_size) == (None, None, None)


def test_what_is_none_is_as_what_is_not_there():
    model = Plain()
    for name in OF_A_MODEL:
        setattr(model, name, None)
    assert Hooks.of(model) == Hooks()


def test_sizes_are_given_to_a_model_that_keeps_none():
    model = Plain()
    model.block_size = 3
    give_sizes(model, vocab_size=7, block_size=5)
    assert (model.vocab_size, model.block_size) == (7, 3)


@pytest.mark.parametrize(("sees", "handed_over"), [(None, [4, 5, 5]), (2, [2, 2, 2])])
def test_sampling_hands_over_what_the_model_sees(sees, handed_over):
    model = Plain()
    model.block_size, model.sees = 5, sees
    assert len(list(generate(model, torch.zeros(1, 4, dtype=torch.int64), 3))) == 3
    assert model.read == handed_over


def test_a_model_that_sees_none_may_remember():
    class Alone(Plain):
        positionwise = True

    model = Alone()
    assert Memory.of(model) is not None
    model.sees = None
    assert Memory.of(model) is not None
    model.sees = 2
    assert Memory.of(model) is None


def test_a_subclass_with_a_forward_of_its_own_speaks_for_itself():
    class Alone(Plain):
        positionwise = True

    class Same(Alone):
        pass

    class Other(Alone):
        def forward(self, idx: torch.Tensor) -> torch.Tensor:
            return super().forward(idx)

    assert [takes_new_tokens_alone(kind()) for kind in (Plain, Alone, Same, Other)] == [
        *(False, True, True, False)
    ]


def test_a_class_declares_by_a_none_also_while_it_is_set():
    class Gathering(Plain):
        past = None

    module = Gathering()
    module.__dict__["past"] = object()
    assert declares(module, "past")
    assert not declares(module, "watch")
    assert not declares(Plain(), "past")


def test_a_layer_is_pictured_as_attention_unless_it_says_otherwise():
    layer = Plain()
    assert pictured_as(layer) == "attention"
    layer.pictured_as = "averages"
    assert pictured_as(layer) == "averages"


def test_the_number_of_heads_is_that_of_the_first_module_that_has_one():
    layers = nn.Sequential(Plain(), Plain(), Plain())
    assert n_head(layers) is None
    layers[0].n_head, layers[1].n_head, layers[2].n_head = None, 4, 2
    assert n_head(layers) == 4


def test_hooks_are_read_in_the_contract_alone():
    read: dict[str, set[str]] = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name(id="getattr" | "hasattr"), args=[_, ast.Constant(str(name)), *_]
                ) if name in OF_A_MODEL | OF_A_CLASS:
                    read.setdefault(path.name, set()).add(name)
    # A tokenizer has a vocab_size as well; what is written for others stands without the lab.
    assert read == {
        "contract.py": {"n_head", "pictured_as"},
        "encoding.py": {"vocab_size"},
        "modeling_lmlab.py": {"sees", "endless"},
    }


def test_the_documentation_names_each():
    text = (ROOT / "docs" / "extending.md").read_text("utf-8")
    named = {name for name in OF_A_MODEL | OF_A_CLASS if f"`{name}" in text}
    assert named == OF_A_MODEL | OF_A_CLASS
