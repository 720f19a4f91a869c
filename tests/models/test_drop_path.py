"""Stochastic depth: which windows a layer is left out of, and that it is off by default."""

import copy

import pytest
import torch

from lmlab.config.fingerprint import fingerprint
from lmlab.models.gpt import GPT
from lmlab.models.modern import Modern
from lmlab.models.parts import DropPath

SIZES = {"vocab_size": 11, "block_size": 8, "n_layer": 3, "n_head": 2, "n_embd": 8}


def test_what_a_layer_adds_is_left_out_of_whole_windows_and_the_mean_stays():
    torch.manual_seed(1)
    x = torch.rand(4000, 3, 2) + 1
    y = DropPath(0.25)(x)
    scale = (y / x).flatten(1)
    assert torch.equal(scale.amin(1) > 1, scale.amax(1) > 1)
    assert abs((scale[:, 0] == 0).float().mean() - 0.25) < 0.03
    torch.testing.assert_close(y[scale[:, 0] > 0], x[scale[:, 0] > 0] / 0.75)
    assert DropPath(0.25).eval()(x) is x
    assert DropPath(0.25)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [GPT, Modern])
def test_layers_are_left_out_the_more_often_the_later_they_come(kind):
    model = kind(**SIZES, drop_path=0.5)
    assert [block.drop_path.p for block in model.blocks] == [0.0, 0.25, 0.5]
    assert [block.drop_path.p for block in kind(**{**SIZES, "n_layer": 1}, drop_path=0.5).blocks]
    without = kind(**SIZES)
    without.load_state_dict(model.state_dict())
    idx = torch.randint(11, (6, 8))
    assert torch.equal(model.eval()(idx), without.eval()(idx))
    state = torch.get_rng_state()
    without.train()(idx)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(model.train()(idx), model(idx))


def test_a_run_without_it_keeps_its_fingerprint(composed):
    for words in (["model=modern"], ["model=gpt"], ["experiment=record/anything"]):
        config = composed(*words)
        before = copy.deepcopy(config)
        for model in [before["model"], *before["model"].get("members", {}).values()]:
            model.pop("drop_path", None)
        assert fingerprint(config) == fingerprint(before)
        config["model"]["drop_path"] = 0.1
        assert fingerprint(config) != fingerprint(before)
