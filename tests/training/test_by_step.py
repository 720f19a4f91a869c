"""What changes by step: that it does, where it should, and alike in a run that goes on."""

import math
import shutil
from typing import Any

import lightning as L
import pytest
import torch
from comparing import assert_same_run, checkpoint, same, weights
from small import branch, cut, train

from lmlab.errors import LabError
from lmlab.runs.directory import RunDirectory

MODERN = [
    *("model=modern", "model.n_layer=2", "model.n_embd=16", "model.n_head=2"),
    *("model.dropout=0.3", "optimizer=muon", "optimizer.weight_decay=0.5"),
    "optimizer.rules.matrices.weight_decay=2.0",
]
EACH = {
    "decay": "callbacks=decay",
    "dropout": "callbacks=dropout",
    "windows": "callbacks=windows",
}
SEEN: list[dict[str, Any]] = []  # before each step


class See(L.Callback):
    """Sees every step, since it is not the lab's: its batches hold one."""

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        SEEN.clear()
        optimizer = trainer.optimizers[0]

        def read(idx: tuple[torch.Tensor]) -> None:
            if module.model.training:
                block = module.model.blocks[0]
                decays = [group["weight_decay"] for group in optimizer.param_groups]
                rates = block.dropout.p, block.attention.dropout
                SEEN.append({"decays": decays, "rates": rates, "idx": idx[0].clone()})

        module.model.token_embedding.register_forward_pre_hook(lambda _, idx: read(idx))


def seen(experiment: Any, *words: str) -> list[dict[str, Any]]:
    experiment(*MODERN, *words, "+callbacks.see={_target_:test_by_step.See}")
    return list(SEEN)


def test_decay_and_dropout_go_through_their_points_in_each_group(experiment):
    steps = seen(experiment, "callbacks=[decay,dropout]")
    assert len(steps) == 24
    assert steps[0]["decays"] == steps[3]["decays"] == [0.5, 0.0, 2.0]  # gains have none
    assert steps[12]["decays"] == [0.5 * 0.125, 0.0, 2.0 * 0.125]
    assert steps[18]["decays"] == pytest.approx([0.5 * 0.64375, 0.0, 2.0 * 0.64375])
    assert steps[0]["rates"] == steps[12]["rates"] == (0.0, 0.0)
    assert steps[18]["rates"] == pytest.approx((0.15, 0.15))


def test_windows_are_cut_and_nothing_of_them_is_lost(experiment):
    whole = seen(experiment)
    pieces = seen(experiment, EACH["windows"])
    assert [step["idx"].shape[1] for step in pieces] == [2] * 6 + [4] * 6 + [8] * 12
    for one, other in zip(whole, pieces, strict=True):
        assert torch.equal(one["idx"].flatten(), other["idx"].flatten())


@pytest.mark.parametrize("which", EACH)
def test_a_run_that_was_cut_short_ends_as_if_it_never_was(experiment, tmp_path, which):
    words = [*MODERN, EACH[which], "checkpoint.every=5", "checkpoint.keep=9"]
    whole, one = (experiment(*words, f"data.steps_per_batch={k}") for k in (7, 1))
    assert same(weights(whole), weights(one))
    shutil.copytree(whole.path, tmp_path / "cut")
    resumed = RunDirectory(tmp_path / "cut")
    cut(resumed, min(int(path.stem[5:]) for path in resumed.checkpoints()))
    train({**resumed.config, "run": str(resumed.path)})
    assert_same_run(whole, resumed)
    assert math.isfinite(resumed.record["metrics"]["val/loss_full"])


def test_a_branch_without_it_has_the_decay_of_its_config(experiment):
    run = experiment(*MODERN, EACH["decay"], "trainer.max_steps=12")
    onward = train(branch(run, callbacks__decay=None, trainer__max_steps=24))
    groups = checkpoint(onward)["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0, 2.0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["callbacks=decay", "callbacks.decay.shares=[0.5,0.1,0.2,1]"],
            r"callbacks.decay.shares=\[0.5, 0.1, 0.2, 1.0\]: give as many as factors",
        ),
        (["callbacks=decay", "optimizer.weight_decay=0"], "there is no weight decay to change"),
        (["callbacks=dropout"], "callbacks.dropout: the model drops nothing; give model.dropout"),
        (
            ["callbacks=windows", "callbacks.windows.pieces=[3]"],
            r"pieces=\[3\]: data.block_size=8 is not divisible by 3",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(experiment, words, line):
    with pytest.raises(LabError, match=line):
        experiment("model=modern", "model.n_layer=1", *words)
