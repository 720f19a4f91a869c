"""Every update rule in every precision: a few steps of the lab's, against the plain formula."""

import logging
import warnings
from functools import partial
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from comparing import weights
from small import branch, train
from test_update_rules import adagrad, adam, adamw, momentum, muon, rmsprop, sgd
from torch import Tensor, nn

from lmlab.data.datamodule import TextDataModule
from lmlab.data.ids import Ids
from lmlab.errors import LabError
from lmlab.models.gpt import GPT
from lmlab.runs.directory import RunDirectory
from lmlab.training.module import LanguageModule
from lmlab.training.optimizers.muon import Muon
from lmlab.training.optimizers.schedules import constant

PRECISIONS = {  # what Lightning keeps the weights in
    "32-true": torch.float32,
    "bf16-true": torch.bfloat16,
    "16-true": torch.float16,
    "64-true": torch.float64,
    "bf16-mixed": torch.float32,
    "16-mixed": torch.float32,
}
STEPS = 3
# An eps and means that float16 can hold, so that it is the rule that is looked at, not rounding.
ADAPTIVE = {"betas": (0.5, 0.5), "eps": 0.1, "weight_decay": 0.0}
MOMENTUM = {"momentum": 0.9, "weight_decay": 0.0}
DECAYED = {"weight_decay": 0.0}
RULES = [  # the formula, torch's class, its settings
    (sgd, torch.optim.SGD, {"lr": 1.0, **DECAYED}),
    (momentum, torch.optim.SGD, {"lr": 1.0, "nesterov": False, **MOMENTUM}),
    (momentum, torch.optim.SGD, {"lr": 1.0, "nesterov": True, **MOMENTUM}),
    (adagrad, torch.optim.Adagrad, {"lr": 0.1, "eps": 0.1, **DECAYED}),
    (rmsprop, torch.optim.RMSprop, {"lr": 0.1, "alpha": 0.5, "eps": 0.1, **MOMENTUM}),
    (adam, torch.optim.Adam, {"lr": 0.1, **ADAPTIVE}),
    (adamw, torch.optim.AdamW, {"lr": 0.1, **ADAPTIVE}),
]
# Of these the formula is torch's own loop over the weights, in float64.
OTHERS = [
    (torch.optim.Adamax, {"lr": 0.1, "betas": (0.5, 0.5), "eps": 0.1}),
    (torch.optim.NAdam, {"lr": 0.1, "betas": (0.5, 0.5), "eps": 0.1}),
    (torch.optim.RAdam, {"lr": 0.1, "betas": (0.5, 0.5), "eps": 0.1}),
    (torch.optim.Adadelta, {"lr": 1.0, "rho": 0.5, "eps": 0.1}),
    (torch.optim.ASGD, {"lr": 1.0}),
    (torch.optim.Rprop, {"lr": 0.01}),
]


class Seen(L.Callback):
    """The weights at first, the gradients of each step, and the weights after each."""

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.names = [name for name, _ in module.model.named_parameters()]
        parameters = [*module.model.parameters()]
        self.gradients: list[list[Tensor]] = []
        self.weights = [[p.detach().double().clone() for p in parameters]]
        self.dtype = parameters[0].dtype

        def before(*_: Any) -> None:
            self.gradients.append([p.grad.double().clone() for p in parameters])  # type: ignore

        def after(*_: Any) -> None:
            self.weights.append([p.detach().double().clone() for p in parameters])

        trainer.optimizers[0].register_step_pre_hook(before)
        trainer.optimizers[0].register_step_post_hook(after)


def seen(make: Any, precision: str) -> Seen:
    """A few steps of a small model, as the lab takes them."""
    torch.manual_seed(0)
    model = GPT(11, 8, n_layer=1, n_head=2, n_embd=16)
    ids = Ids(torch.from_numpy(np.random.default_rng(0).integers(0, 11, 1000).astype("u1")))
    settings = {"batch_size": 4, "block_size": 8, "max_steps": STEPS, "eval_every": STEPS}
    data = TextDataModule(ids[:900], ids[900:], 11, **settings)
    module = LanguageModule(model, make, constant, np.ones(11), np.ones(11), max_steps=STEPS)
    watch = Seen()
    quiet = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 16-mixed is bf16-mixed on a CPU, says Lightning
        trainer = L.Trainer(
            accelerator="cpu",
            precision=precision,  # type: ignore
            max_steps=STEPS,
            limit_val_batches=0,
            callbacks=[watch],
            **dict.fromkeys(quiet, False),  # type: ignore
        )
        trainer.fit(module, datamodule=data)
    return watch


def check(watch: Seen, precision: str, expected: list[list[Tensor]], what: str) -> None:
    """`expected` are the weights after each step, by a formula in float64."""
    dtype = PRECISIONS[precision]
    assert watch.dtype == dtype
    assert len(watch.gradients) == STEPS
    # Two digits are left of a step in bfloat16, and of a weight that it is added to.
    rounding = {torch.float64: 1e-7, torch.float32: 1e-4}.get(dtype, 0.05)
    for i, name in enumerate(watch.names):
        for step in range(1, STEPS + 1):
            theirs, ours = watch.weights[step][i], expected[step - 1][i]
            way = (ours - watch.weights[0][i]).abs().max().item()
            torch.testing.assert_close(
                *(theirs, ours),
                rtol=2 * step * torch.finfo(dtype).eps,
                atol=rounding * way,
                msg=lambda said, at=f"{what} {precision} {name}, step {step}": f"{at}: {said}",
            )


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="lightning.pytorch")


MODES: list[dict[str, Any]] = [{"foreach": False}, {"foreach": True}, {"fused": True}]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_rule_takes_the_steps_of_its_formula(precision: str) -> None:
    for formula, kind, settings in RULES:
        for mode in MODES:
            if kind is torch.optim.RMSprop and "fused" in mode:
                continue  # it has no such kernel
            watch = seen(partial(kind, **settings, **mode), precision)
            columns = []
            for i, start in enumerate(watch.weights[0]):
                given = iter([step[i] for step in watch.gradients])
                rule = formula(start, lambda _, given=given: next(given), **settings)
                columns.append([next(rule) for _ in range(STEPS)])
            expected = [list(row) for row in zip(*columns, strict=True)]
            check(watch, precision, expected, f"{kind.__name__} {mode}")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_rest_of_torchs_rules_take_the_steps_of_their_loops_in_float64(precision: str) -> None:
    for kind, settings in OTHERS:
        if kind is torch.optim.Rprop and precision == "16-true":
            continue  # it goes by products of gradients, which float16 makes 0
        for mode in MODES[:2]:
            watch = seen(partial(kind, **settings, **mode), precision)
            weights = [nn.Parameter(start.clone()) for start in watch.weights[0]]
            loop, expected = kind(weights, **settings, foreach=False), []
            for gradients in watch.gradients:
                for p, gradient in zip(weights, gradients, strict=True):
                    p.grad = gradient
                loop.step()
                expected.append([p.detach().clone() for p in weights])
            check(watch, precision, expected, f"{kind.__name__} {mode}")


@pytest.mark.parametrize("dtype", set(PRECISIONS.values()))
def test_muon_takes_the_steps_of_its_formula(dtype: torch.dtype) -> None:
    settings: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    settings |= {"adjust_lr_fn": "original", "ns_steps": 5, "momentum_warmup_steps": 0}
    settings |= {"momentum_start": 0.85, "beta2": None, "cautious": False, "parts": 1, "lr": 0.02}
    start, *gradients = torch.randn((4, 16, 32), generator=torch.Generator().manual_seed(1))
    given = iter(g.to(dtype).double() for g in gradients)
    p = nn.Parameter(start.to(dtype))
    optimizer = Muon([p], dtype="float32", **settings)
    rule = muon(p.detach().double().clone(), lambda _: next(given), **settings)
    for step, (gradient, expected) in enumerate(zip(gradients, rule, strict=False), 1):
        p.grad = gradient.to(dtype)
        optimizer.step()
        atol = 0.002 * step if dtype.itemsize == 2 else 1e-5
        rtol = 2 * step * torch.finfo(dtype).eps
        torch.testing.assert_close(p.detach().double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
@pytest.mark.parametrize("option", ["sgd", "momentum"])
def test_a_run_of_16_bits_is_trained(experiment, option, precision) -> None:
    run = experiment("model=bigram", f"optimizer={option}", f"trainer.precision={precision}")
    assert run.record["metrics"]["val/loss"] < 4.772  # 4.777 at first


def test_fused_sgd_is_gone_round_where_a_checkpoint_says_fused(experiment) -> None:
    parent = experiment("model=bigram", "optimizer=sgd")
    run = train(branch(parent, trainer__max_steps=26, trainer__precision="bf16-true"))
    assert isinstance(run, RunDirectory)
    before, after = (weights(r)["model.table.weight"] for r in (parent, run))
    assert not torch.equal(before.bfloat16(), after)


HALF = ["model=gpt", "model.n_embd=16", "model.n_layer=1", "trainer.precision=16-true"]


def test_an_eps_that_float16_cannot_hold_is_named(experiment, capfd) -> None:
    advice = "is 0 in float16, and steps are divided by it: give optimizer.eps=1e-4"
    with pytest.raises(LabError, match=f"the loss became nan at step 2 .*{advice}"):
        experiment(*HALF, "optimizer=adagrad")
    assert advice in capfd.readouterr().out


@pytest.mark.parametrize("option", ["adamw", "adagrad", "rmsprop"])
def test_the_eps_that_is_advised_trains(experiment, option, capfd) -> None:
    words = [f"optimizer={option}", "optimizer.eps=1e-4", "trainer.max_steps=100"]
    run = experiment(*HALF, *words, "eval.every=100")
    assert run.record["metrics"]["val/loss"] < 4
    assert "float16" not in capfd.readouterr().out
