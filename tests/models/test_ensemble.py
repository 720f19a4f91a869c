"""Networks that answer together: they are trained as each would be alone."""

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comparing import assert_same_run, weights
from modern_parts import SIZE, T, V, random_ids
from small import checked, cut, train

from lmlab.data.ids import Ids
from lmlab.data.tokens import text_of
from lmlab.data.windows import full_pass
from lmlab.errors import LabError
from lmlab.handles import Run
from lmlab.models.bigram import Bigram
from lmlab.models.ensemble import Ensemble
from lmlab.models.memory import Memory
from lmlab.models.modern import Modern
from lmlab.models.ngram import NGram
from lmlab.training.costs.flops import flops_per_token
from lmlab.training.optimizers.rules import roles_of

MODERN = partial(Modern, **SIZE)
ENSEMBLE = ["model=ensemble", "model.members.network.n_embd=16", "model.members.network.n_layer=1"]


def ensemble(shares: dict[str, float] | None = None, **members: Any) -> Ensemble:
    """Two networks of one kind and one of another, if nothing else is said."""
    torch.manual_seed(1)
    made = Ensemble(V, T, members or {"a": MODERN, "b": MODERN, "c": partial(Bigram)}, shares)
    for parameter in made.parameters():  # fresh networks of this kind say nothing yet
        torch.nn.init.normal_(parameter, std=0.3)
    made.prepare(random_ids(300))
    return made


@pytest.mark.parametrize("given", [None, {"a": 1.0, "b": 2.0, "c": 5.0}])
def test_it_gives_the_mean_of_probabilities(given):
    model, idx = ensemble(given).eval(), random_ids(3, T)
    shares = [1 / 3] * 3 if given is None else [1 / 8, 2 / 8, 5 / 8]
    each = [m(idx).softmax(-1) for m in model.members.values()]
    expected = sum(share * probs for share, probs in zip(shares, each, strict=True))
    torch.testing.assert_close(model(idx).exp(), expected)
    torch.testing.assert_close(expected.sum(-1), torch.ones(3, T))


def test_counts_are_a_member_that_takes_no_windows():
    model = ensemble(a=MODERN, counts=partial(NGram, order=3))
    alone, idx = model.members["a"], random_ids(4, T)
    assert torch.equal(model.train()(idx), alone.train()(idx))
    counted = NGram(V, T, order=3)
    counted.fit(random_ids(300))
    expected = (alone.eval()(idx).softmax(-1) + counted(idx).exp()) / 2
    torch.testing.assert_close(model.eval()(idx).exp(), expected)


@pytest.mark.parametrize("n_windows", [6, 7])
def test_each_learns_from_its_windows_as_it_would_alone(n_windows):
    model, idx = ensemble().train(), random_ids(n_windows, T)
    targets = idx.roll(-1, 1)
    logits = model(idx)
    assert logits.shape == (n_windows, T, V)
    F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    together = {name: p.grad for name, p in model.named_parameters()}
    shares = zip(idx.tensor_split(3), targets.tensor_split(3), strict=True)
    model.zero_grad(set_to_none=True)
    for member, (x, y) in zip(model.members.values(), shares, strict=True):
        F.cross_entropy(member(x).flatten(0, 1), y.flatten()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad)


def test_a_batch_too_small_for_all_is_refused():
    with pytest.raises(LabError, match=r"data\.batch_size=2 has no window for each of 3 networks"):
        ensemble().train()(random_ids(2, T))


@pytest.mark.parametrize("given", [{}, {"a": 1.0}, {"a": 1.0, "b": 1.0, "d": 1.0}])
def test_weights_of_others_than_the_members_are_refused(given):
    with pytest.raises(LabError, match=r"give one for each of model\.members, which are a, b, c"):
        ensemble(given)


def test_there_must_be_a_member():
    with pytest.raises(LabError, match=r"model\.members, which are none"):
        Ensemble(V, T, {})


def test_each_member_has_a_readout_of_its_own():
    model = ensemble(a=MODERN, b=MODERN)
    of_readout = [name for name, p in model.named_parameters() if roles_of(model)[p] == {"readout"}]
    assert of_readout == ["members.a.lm_head.weight", "members.b.lm_head.weight"]


def test_it_reads_on_from_what_it_remembers():
    kinds = {"a": MODERN, "b": partial(MODERN, counts_order=3), "c": partial(NGram, order=4)}
    model, idx = ensemble(**kinds).eval(), random_ids(1, T)
    memory = Memory.of(model)
    assert memory is not None
    with torch.no_grad():
        for t in range(T):
            with memory:
                new = model(idx[:, t : t + 1])
            torch.testing.assert_close(new[:, -1], model(idx[:, : t + 1])[:, -1])


@pytest.mark.slow
def test_a_run_of_it_goes_on_where_it_was_cut(experiment):
    words = [*ENSEMBLE, "optimizer=muon", "model.members.network.dropout=0.1"]
    whole, cut_short = experiment(*words), experiment(*words)
    cut(cut_short, 12)
    train({**cut_short.config, "run": str(cut_short.path)})
    assert_same_run(whole, cut_short)
    assert whole.record["metrics"]["val/loss_full"] < math.log(65)
    assert len(whole.sample) == 8


def test_a_token_is_read_by_one_network(composed):
    config = composed(*ENSEMBLE)
    alone = {**config, "model": {**config["model"]["members"]["network"], "_partial_": False}}
    assert flops_per_token(checked(config), 65) == flops_per_token(checked(alone), 65)


def test_runs_are_evaluated_together(experiment):
    words = ["model=gpt", "model.n_embd=16", "data.val_fraction=0.001"]
    first, second = (Run(experiment(*words, f"seed={seed}").path) for seed in (1, 2))
    both = first.evaluate(ensemble=[second.path], weights=[3, 1])["val/loss_full"]
    ids = text_of(checked(first.config)).ids
    val = ids.whole().long()[int((1 - 0.001) * len(ids)) :]
    models, total = [first.model(), second.model()], 0.0
    for windows, counted in full_pass(Ids(val), 8, 8, batch_size=1):
        with torch.no_grad():
            probs = [model(windows[:, :-1]).softmax(-1)[0] for model in models]
        mean = 0.75 * probs[0] + 0.25 * probs[1]
        nll = F.nll_loss(mean.log(), windows[0, 1:], reduction="none")
        total += nll[-int(counted) :].sum().item()
    assert both == pytest.approx(total / (len(val) - 1), rel=1e-5)
    alone = first.evaluate()["val/loss_full"]
    assert first.evaluate(ensemble=[first.path])["val/loss_full"] == pytest.approx(alone, rel=1e-6)


def test_runs_that_do_not_go_together_are_refused(experiment):
    run = Run(experiment("model=bigram").path)
    longer = Run(experiment("model=bigram", "data.block_size=9").path)
    other = experiment("model=bigram", "tokenizer=byte")
    with pytest.raises(LabError, match="reads other tokens than"):
        run.evaluate(ensemble=[other.path])
    with pytest.raises(LabError, match=r"reads 8 tokens at a time, .* 9"):
        longer.evaluate(ensemble=[run.path])
    with pytest.raises(LabError, match="give 2, run's first"):
        run.evaluate(ensemble=[longer.path], weights=[1.0])


def test_counts_beside_a_network_change_nothing_in_its_training(experiment):
    """So record/best_with_counts has the network of record/best."""
    settings = {"n_embd": 16, "n_layer": 1, "dropout": 0.1}
    alone = experiment("model=modern", *(f"model.{k}={v}" for k, v in settings.items()))
    both = experiment(
        "model=ensemble", *(f"model.members.network.{k}={v}" for k, v in settings.items())
    )
    together = weights(both)
    for name, value in weights(alone).items():
        assert torch.equal(value, together[name.replace("model.", "model.members.network.", 1)])
