"""What a config asks for, found out before it is asked for."""

from pathlib import Path

import pytest
import torch
from small import SMALL, checked

from lmlab.config import build
from lmlab.errors import LabError
from lmlab.models.inside import memory_limit as module
from lmlab.models.inside.memory_limit import memory_bytes
from lmlab.training.optimizers.configure import configure
from lmlab.training.preflight import check_fits, footprint

HUGE = ["model=gpt", "model.n_embd=400000", "model.n_head=1", "model.n_layer=2"]


@pytest.mark.parametrize("more", [[], ["dry_run=true"]], ids=["train", "dry run"])
def test_a_model_that_no_memory_holds_is_refused_before_anything_is_made(lab, text, more):
    words = [*SMALL, "corpus=file", f"corpus.path={text}", *HUGE, *more]
    status, _, err = lab("train", *words)
    assert status == 2
    assert "model=GPT of 3,840,0" in err
    assert "needs 61.4 TB of memory to be trained, and this machine has" in err
    assert err.count("\n") == 1
    assert not Path("outputs").exists()


def test_it_counts_what_training_keeps(composed, tmp_path, monkeypatch):
    config = composed("model=gpt", "model.n_embd=32", "optimizer=adamw")
    size = footprint(checked(config), 65)
    model = build.model(config["model"], 65, config["data"]["block_size"])
    optimizer = configure(model, build.optimizer(config["optimizer"]))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = [v for state in optimizer.state.values() for v in state.values()]
    weights = sum(p.numel() * 4 for p in model.parameters())
    assert size.weights == weights
    assert size.optimizer == sum(v.numel() * v.element_size() for v in kept)

    need = 2 * size.weights + size.optimizer
    monkeypatch.setattr(module, "CGROUP_LIMIT", tmp_path / "memory.max")
    (tmp_path / "memory.max").write_text(f"{need}")
    check_fits(checked(config), 65)
    (tmp_path / "memory.max").write_text(f"{need - 1}")
    with pytest.raises(LabError, match="choose a smaller model"):
        check_fits(checked(config), 65)


def test_the_check_moves_no_random_number(composed):
    config = composed("model=gpt", "model.n_embd=32")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    check_fits(checked(config), 65)
    footprint(checked(config), 65)
    assert torch.equal(torch.get_rng_state(), before)


def test_memory_is_that_of_the_container_if_it_has_less(tmp_path, monkeypatch):
    whole = memory_bytes()
    for said, expected in (("max\n", whole), (f"{1 << 20}\n", 1 << 20), (f"{1 << 60}\n", whole)):
        (tmp_path / "memory.max").write_text(said)
        monkeypatch.setattr(module, "CGROUP_LIMIT", tmp_path / "memory.max")
        assert memory_bytes() == expected


@pytest.mark.parametrize("kind", ["Adafactor", "ASGD"])
def test_an_optimizer_that_looks_at_numbers_is_planned_all_the_same(lab, text, kind):
    own = ["~optimizer", f"+optimizer={{_target_: torch.optim.{kind}, lr: 0.01}}"]
    status, out, err = lab(
        "train", *SMALL, "corpus=file", f"corpus.path={text}", *own, "dry_run=true"
    )
    assert (status, err) == (0, "")
    assert "optimizer not counted" in out
