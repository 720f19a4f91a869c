"""Which rule takes which parameters, and runs that are trained by several optimizers."""

import copy
import functools
import io
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import assert_same_run, checkpoint, curves, same, weights
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from small import ROOT, SMALL, checked, cut, train
from torch import nn

from lmlab.config import build, schema
from lmlab.config.check import check
from lmlab.config.fingerprint import determining, fingerprint
from lmlab.config.stored import conf_dir
from lmlab.config.words.hydra_inside import version_base
from lmlab.errors import LabError
from lmlab.training.optimizers.configure import CombinedOptimizer, configure, groups_by_rule
from lmlab.training.optimizers.rules import REST, ROLES, Rule, assign, names_of, roles_of, rules_of
from lmlab.training.preflight import footprint

MODELS = [
    *("bigram", "bag_of_words", "head", "multi_head", "feed_forward", "blocks_without_residual"),
    *("residual", "layer_norm", "gpt"),
]
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAMW = partial(torch.optim.AdamW, lr=0.01, fused=True)

# The same AdamW as optimizer=adamw, for the matrices alone.
SAME = "+optimizer.rules.matrices={params:matrices}"
# Another class, which keeps a state from the beginning, and a schedule of its own.
OTHER = (
    "+optimizer.rules.matrices={params:[matrices,'*final*'],_target_:torch.optim.Adagrad,lr:0.02,"
    "eps:1e-10,weight_decay:0.1,schedule:{_target_:lmlab.training.optimizers.schedules.linear,"
    "warmup_steps:3,warmdown:0.5,final:0.0}}"
)
GPT = ["model=gpt", "model.n_embd=16", "model.n_layer=1", "model.dropout=0.1"]


@functools.cache
def model_of(option: str) -> nn.Module:
    with initialize_config_dir(str(conf_dir()), **version_base()):
        cfg = compose("train", ["name=x", f"model={option}", "data.block_size=4"])
    return build.model(check(cfg, schema.Train).model, vocab_size=11, block_size=4)


class Tied(nn.Module):
    """Its embedding is its read-out; a layer of a block has as many rows as there are tokens."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, 4)
        self.block = nn.ModuleDict({"wide": nn.Linear(4, vocab_size), "back": nn.Linear(11, 4)})
        self.logits = nn.Linear(4, vocab_size)
        self.logits.weight = self.embedding.weight


def roles_by_name(model: nn.Module) -> dict[str, set[str]]:
    names, roles = names_of(model), roles_of(model)
    return {names[parameter][0]: roles[parameter] for parameter in roles}


# --- roles and names -------------------------------------------------------------------------


def test_roles_follow_from_the_structure():
    roles = roles_by_name(model_of("layer_norm"))
    assert roles["token_embedding.weight"] == roles["position_embedding.weight"] == {"embeddings"}
    assert roles["lm_head.weight"] == {"readout"}
    for name, found in roles.items():
        if name.startswith("layers."):
            vector = name.endswith("bias") or "norm" in name
            assert found == ({"vectors"} if vector else {"matrices"}), name
    assert roles_by_name(model_of("bigram")) == {"table.weight": {"embeddings"}}


def test_a_tied_weight_is_one_parameter_with_two_roles():
    roles = roles_by_name(Tied(11))
    assert roles["embedding.weight"] == {"embeddings", "readout"}
    assert "logits.weight" not in roles
    assert roles["block.wide.weight"] == roles["block.back.weight"] == {"matrices"}
    for params in ("embeddings", "readout", "logits.w*"):
        optimizer = configure(Tied(11), ADAMW, {"tied": Rule((params,), SGD)})
        (group,) = groups_by_rule(optimizer)["tied"]
        assert [p.shape for p in group["params"]] == [(11, 4)]


def test_the_readout_of_a_model_of_ones_own_is_found_by_the_vocabulary(composed, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests/extensions/own"))
    words = [
        "~model.n_layer",
        "~model.n_head",
        "~model.dropout",
        "~model.drop_path",
        "model.n_embd=8",
    ]
    config = composed("model._target_=mypackage.mymodel.MyModel", *words)
    roles = roles_by_name(build.model(config["model"], 11, config["data"]["block_size"]))
    assert [name for name, found in roles.items() if found == {"readout"}] == ["logits.weight"]
    assert [name for name, found in roles.items() if found == {"matrices"}] == ["wide.weight"]


@st.composite
def rule_lists(draw):
    """A model, and rules of random roles and patterns."""
    model = model_of(draw(st.sampled_from(MODELS)))
    names = [name for name, _ in model.named_parameters()]
    patterns = [*ROLES, *names, "*", "*.weight", "*bias", "layers.*", "blocks.*", "*[0-3]*", "l?*"]
    params = st.lists(st.sampled_from(patterns), min_size=1, max_size=3)
    makes = st.sampled_from([SGD, ADAMW, partial(torch.optim.Adagrad, lr=0.1)])
    rules = draw(st.lists(st.builds(Rule, params.map(tuple), makes), max_size=4))
    return model, {f"rule{i}": rule for i, rule in enumerate(rules)}


@settings(max_examples=60)
@given(rule_lists())
def test_every_parameter_is_in_exactly_one_group_that_of_the_first_rule_that_matches(case):
    model, rules = case
    roles = roles_by_name(model)

    def matches(name: str, pattern: str) -> bool:
        if pattern in ROLES:
            return pattern in roles[name]
        as_regex = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
        return re.fullmatch(as_regex.replace(r"\[0\-3\]", "[0-3]"), name) is not None

    expected: dict[str, set[str]] = {REST: set(), **{rule: set() for rule in rules}}
    for name in roles:
        takers = [r for r in rules if any(matches(name, p) for p in rules[r].params)]
        expected[takers[0] if takers else REST].add(name)
    patterns = [pattern for rule in rules.values() for pattern in rule.params]
    in_vain = [p for p in patterns if not any(matches(name, p) for name in roles)]
    if in_vain or not all(expected.values()):
        with pytest.raises(LabError, match=r"optimizer\.rules"):
            configure(model, ADAMW, rules)
        return
    optimizer = configure(model, ADAMW, rules)
    names = {parameter: name for name, parameter in model.named_parameters()}
    held = [names[p] for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(roles)
    for rule, groups in groups_by_rule(optimizer).items():
        assert {names[p] for group in groups for p in group["params"]} == expected[rule]
        for group in groups:
            assert len({p.dim() >= 2 for p in group["params"]}) == 1
            assert group["initial_lr"] == group["lr"]


def test_weight_decay_touches_matrices_only_in_each_rule():
    model = model_of("layer_norm")
    rules = {"layers": Rule(("layers.*",), partial(torch.optim.SGD, lr=0.1, weight_decay=0.5))}
    optimizer = configure(model, partial(torch.optim.AdamW, lr=0.1, weight_decay=0.2), rules)
    decays = {name: [g["weight_decay"] for g in groups_by_rule(optimizer)[name]] for name in rules}
    assert decays == {"layers": [0.5, 0.0]}
    assert [group["weight_decay"] for group in groups_by_rule(optimizer)[REST]] == [0.2, 0.0]


MUON = ["optimizer=muon", "model=layer_norm"]
NEVER = [
    (["optimizer.rules.matrices.params=matrcies"], "no parameter of this name; did you mean matr"),
    (["optimizer.rules.matrices.params=blocks.*"], "params=blocks.*: Stack trains no parameter of"),
    (["model=bigram"], "Bigram trains no parameter of this role; it has the roles embeddings"),
    (["optimizer.rules.matrices.params=l*"], "Muon does not take layers.0.attention.projection"),
    (["optimizer.rules.matrices.params=vectors"], "Muon only supports 2D"),
    (["+optimizer.rules.a={params:'layers.1.*weight'}", "+optimizer.rules.b={params:layers.1.feed*"
      "weight}"], "optimizer.rules.b: rules above it take all"),
    (["+optimizer.rules.a={params:[embeddings,readout,vectors]}"], "optimizer itself has none"),
    (["+optimizer.rules.rest={params:readout}"], "give another name"),
    (["+optimizer.rules.a={params:readout,alpha:0.5}"], "unexpected keyword argument 'alpha'"),
    (["+optimizer.rules.a={params:readout,lr:-1}"], "optimizer.rules.a.lr=-1: input should be gr"),
    (["+optimizer.rules.a={lr:1}"], "optimizer.rules.a.params is missing"),
    (["+optimizer.rules.a=3"], "optimizer.rules.a=3"),
    (["optimizer.rules.matrices.momentum=1"], "optimizer.rules.matrices.momentum=1: input should"),
    (["+optimizer.rules.a={params:readout,_target_:os.mkdir}"], "rules.a._target_=os.mkdir: not a"),
    (["optimizer.rules.matrices.schedule={_target_:os.mkdir}"], "schedule._target_=os.mkdir: not"),
    (["optimizer.rules.matrices._target_=nosuch.Muon"], "nosuch.Muon': cannot be imported"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), NEVER, ids=[words[0] for words, _ in NEVER])
def test_what_cannot_be_is_one_line_and_leaves_nothing(lab, text, words, said):
    where = [*SMALL, *MUON, "corpus=file", f"corpus.path={text}"]
    status, out, err = lab("train", *where, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not Path("outputs").exists()


def test_a_single_optimizer_that_refuses_a_parameter_names_it():
    with pytest.raises(LabError, match=r"Muon does not take lm_head.bias \(11,\): .* by optimizer"):
        configure(model_of("head"), partial(torch.optim.Muon, lr=0.1))
    with pytest.raises(LabError, match=r"SGD cannot be made: .*'betas'"):
        configure(model_of("head"), partial(torch.optim.SGD, betas=[0, 0]))


# --- several optimizers as one ---------------------------------------------------------------


def combined(model: nn.Module) -> CombinedOptimizer:
    adagrad = partial(torch.optim.Adagrad, lr=0.1)
    rules = {"matrices": Rule(("matrices",), SGD), "vectors": Rule(("vectors",), adagrad)}
    optimizer = configure(model, ADAMW, rules)
    assert isinstance(optimizer, CombinedOptimizer)
    return optimizer


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, n: int) -> None:
    for _ in range(n):
        for parameter in model.parameters():
            parameter.grad = parameter.detach().cos()
        optimizer.step()
        optimizer.zero_grad()


def test_it_steps_like_its_optimizers_by_themselves():
    together = copy.deepcopy(model_of("layer_norm"))
    apart = copy.deepcopy(together)
    taken = assign(apart, {"m": Rule(("matrices",), SGD), "v": Rule(("vectors",), SGD)})
    take_steps(together, combined(together), 3)
    makes = (ADAMW, SGD, partial(torch.optim.Adagrad, lr=0.1))
    for make, parameters in zip(makes, taken.values(), strict=True):
        # AdamW's default decay touches matrices, and the rest here is nothing else.
        take_steps(apart, make(parameters), 3)
    assert same(together.state_dict(), apart.state_dict())
    assert all(p.grad is None for p in together.parameters())


def test_hooks_and_the_closure_are_called_once_a_step():
    model = copy.deepcopy(model_of("layer_norm"))
    optimizer, called = combined(model), []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))

    def closure() -> torch.Tensor:
        called.append("closure")
        loss = sum(p.square().sum() for p in model.parameters())
        loss.backward()
        return loss.detach()

    assert optimizer.step(closure) > 0
    assert called == ["before", "closure", "after"]


def test_rates_that_are_set_on_it_are_those_of_its_optimizers():
    model = copy.deepcopy(model_of("layer_norm"))
    optimizer = combined(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    take_steps(model, optimizer, 1)
    assert same(before, model.state_dict())
    with pytest.raises(NotImplementedError):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})


@pytest.mark.parametrize("how", ["a checkpoint", "a copy"])
def test_its_state_is_plain_and_goes_on_exactly(how):
    whole = copy.deepcopy(model_of("layer_norm"))
    optimizer = combined(whole)
    take_steps(whole, optimizer, 2)
    if how == "a checkpoint":
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        half = copy.deepcopy(whole)
        resumed = combined(half)
        resumed.load_state_dict(torch.load(file, weights_only=True))
    else:
        half, resumed = copy.deepcopy((whole, optimizer))
    take_steps(whole, optimizer, 2)
    take_steps(half, resumed, 2)
    assert same(whole.state_dict(), half.state_dict())
    assert same(optimizer.state_dict(), resumed.state_dict())
    assert len(resumed.state) == len(list(half.parameters()))


# --- runs ------------------------------------------------------------------------------------


def test_the_same_adamw_in_two_rules_trains_bit_for_bit_like_one(experiment):
    words = [*GPT, "optimizer=adamw", "trainer.gradient_clip_val=0.5", "schedule=cosine"]
    one, two = experiment(*words), experiment(*words, SAME)
    assert same(weights(one), weights(two))
    assert one.record["metrics"] == two.record["metrics"]
    assert len(checkpoint(one)["optimizer_states"][0]["param_groups"]) == 2
    assert len(checkpoint(two)["optimizer_states"][0]["param_groups"]) == 3


def test_each_rule_has_its_own_rate_and_schedule_and_both_are_logged(experiment):
    run = experiment(*GPT, "schedule=constant", "optimizer.lr=0.005", OTHER)
    rates = {int(row["step"]): row for row in curves(run) if row["train/lr"]}
    assert {float(row["train/lr"]) for row in rates.values()} == {0.005}
    linear = build.schedule(run.config["optimizer"]["rules"]["matrices"]["schedule"])
    assert list(rates) == [4, 8, 12, 16, 20, 24]
    for step, row in rates.items():
        assert float(row["train/lr/matrices"]) == pytest.approx(0.02 * linear(step - 1, 24))


def test_how_many_steps_are_taken_at_once_changes_nothing(experiment):
    words = [*GPT, OTHER, "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.5"]
    one, ten = (experiment(*words, f"data.steps_per_batch={k}") for k in (1, 10))
    assert same(weights(one), weights(ten))
    assert curves(one) == curves(ten)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [[*GPT, OTHER, "trainer.gradient_clip_val=0.5"], ["model=head", "optimizer=muon"]],
    ids=["adagrad", "muon"],
)
def test_a_run_that_was_cut_short_ends_as_if_it_never_was(experiment, tmp_path, words):
    words = [*words, "trainer.accumulate_grad_batches=2", "checkpoint.every=5", "checkpoint.keep=9"]
    words += ["callbacks.histograms.every=1", "data.steps_per_batch=4"]
    whole = experiment(*words, f"output_dir={tmp_path / 'whole'}")
    resumed = experiment(*words, f"output_dir={tmp_path / 'cut'}")
    steps = sorted(int(path.stem[5:]) for path in resumed.checkpoints())
    cut(resumed, steps[0])
    train({**resumed.config, "run": str(resumed.path)})
    assert_same_run(whole, resumed)


def branched(run: Any, **rule: Any) -> dict[str, torch.Tensor]:
    """The state that a run from another's last checkpoint, with another rule, has gathered."""
    optimizer = run.config["optimizer"]
    rules = {"matrices": {**optimizer["rules"]["matrices"], **rule}}
    config = {**run.config, "optimizer": {**optimizer, "rules": rules}, "from": str(run.path)}
    config["trainer"] = {**run.config["trainer"], "max_steps": 25}
    (state,) = checkpoint(train({**config, "run_dir": None}))["optimizer_states"]
    return state["state"][0]


def test_a_branch_keeps_the_state_if_only_numbers_of_a_rule_differ(experiment, capsys):
    run = experiment(*GPT, OTHER)
    constant = {"_target_": "lmlab.training.optimizers.schedules.constant", "warmup_steps": 0}
    assert branched(run, lr=0.5, weight_decay=0.0, schedule=constant)["step"] == 25
    assert "begins afresh" not in capsys.readouterr().out
    assert branched(run, params="matrices")["step"] == 1
    assert "the optimizer is another one and begins afresh" in capsys.readouterr().out


def test_memory_counts_what_each_optimizer_keeps(composed):
    words = ["model=gpt", "model.n_embd=32"]
    single, muon = (
        footprint(checked(composed(*words, f"optimizer={o}")), 65) for o in ("adamw", "muon")
    )
    model = single.model
    matrices = sum(p.numel() * 4 for p, found in roles_of(model).items() if found == {"matrices"})
    n_matrices = sum(found == {"matrices"} for found in roles_of(model).values())
    # Muon keeps one number for each weight, AdamW two, and a count for each parameter.
    assert muon.optimizer == single.optimizer - matrices - 4 * n_matrices


# --- configs ---------------------------------------------------------------------------------


def test_every_number_of_a_rule_and_the_order_of_rules_count_in_the_fingerprint(composed):
    rules = ["+optimizer.rules.a={params:'*bias',lr:0.1}", "+optimizer.rules.b={params:vectors}"]
    base = composed("optimizer=muon", *rules)
    seen = {fingerprint(base), fingerprint(composed("optimizer=muon", *rules[::-1]))}
    words = ["optimizer.rules.a.lr=0.2", "optimizer.rules.b.params=readout", "optimizer.lr=1"]
    for word in ("lr=0.5", "momentum=0.5", "weight_decay=0.5", "nesterov=false", "params=layers*"):
        words.append(f"optimizer.rules.matrices.{word}")
    words.append("+schedule@optimizer.rules.matrices.schedule=linear")
    seen |= {fingerprint(composed("optimizer=muon", *rules, word)) for word in words}
    assert len(seen) == 2 + len(words)
    one = composed("optimizer=muon", "optimizer.rules.matrices.lr=1")
    assert fingerprint(one) == fingerprint(
        composed("optimizer=muon", "optimizer.rules.matrices.lr=1.0")
    )


def test_without_a_rule_that_is_on_it_is_a_single_optimizer(composed):
    plain = composed("optimizer=adamw")
    for words in (["+optimizer.rules=null"], ["+optimizer.rules.a=null"], ["+optimizer.rules={}"]):
        config = composed("optimizer=adamw", *words)
        assert rules_of(config["optimizer"]) == {}
        assert determining(config) == determining(plain)


def test_an_option_of_another_group_makes_a_rule_of_a_whole_optimizer(composed):
    config = composed(
        "optimizer=muon",
        *("+optimizer@optimizer.rules.readout=sgd", "+optimizer.rules.readout.params=readout"),
        "+schedule@optimizer.rules.matrices.schedule=linear",
    )
    optimizer = configure(
        model_of("gpt"), build.optimizer(config["optimizer"]), rules_of(config["optimizer"])
    )
    assert isinstance(optimizer, CombinedOptimizer)
    kinds = {name: type(one).__name__ for name, one in optimizer.optimizers.items()}
    assert kinds == {"rest": "AdamW", "matrices": "Muon", "readout": "SGD"}
    assert rules_of(config["optimizer"])["matrices"].schedule(99, 100) == pytest.approx(0.02)


def test_dry_run_shows_who_takes_what(lab, text):
    words = [*SMALL, "corpus=file", f"corpus.path={text}", "dry_run=true", "model=layer_norm"]
    status, out, err = lab(
        "train", *words, "optimizer=muon", "schedule=cosine", "schedule.warmup_steps=1"
    )
    assert (status, err) == (0, "")
    table = [re.split(r"  +", line) for line in out.splitlines()[-4:]]
    assert table[0] == [
        *("rule", "optimizer", "lr", "decay", "schedule", "tensors", "parameters", "names"),
    ]
    assert [row[:2] for row in table[1:]] == [["rest", "AdamW"]] * 2 + [["matrices", "Muon"]]
    assert table[3][4:6] == ["cosine", "45"]  # 15 in each of 3 layers
    assert table[3][7].startswith("layers.*.attention.heads.*.key.weight, ")
    rows = lab("train", *words, "optimizer=adamw")[1].splitlines()[-2:]
    assert [re.split(r"  +", row)[:4] for row in rows] == [
        ["all", "AdamW", "0.001", "0.01"],
        ["all", "AdamW", "0.001", "0"],
    ]
