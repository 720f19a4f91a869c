"""Callbacks, models and precisions of others, inside the module's own steps."""

import lightning as L
import pytest
import torch
from comparing import curves, same, weights
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from small import SMALL, checked, train
from torch import nn

from lmlab.config.fingerprint import fingerprint
from lmlab.core.experiment import Parts, make_data
from lmlab.data.tokens import text_of
from lmlab.models.bigram import Bigram
from lmlab.runs.directory import RunDirectory

EMA = "{_target_:lightning.pytorch.callbacks.EMAWeightAveraging,decay:0.9}"


class Dropping(Bigram):
    """A bigram that drops logits, by torch's default generator."""

    def forward(self, idx):
        return nn.functional.dropout(super().forward(idx), 0.5, self.training)


class EveryStep(Callback):
    """Keeps the steps at which a batch ended."""

    seen: list[int] = []  # noqa: RUF012

    def on_train_batch_end(self, trainer, *_):
        self.seen.append(trainer.global_step)


@pytest.mark.parametrize(
    "words",
    [
        ["model=head", f"+callbacks.ema={EMA}"],
        ["model=head", "streams=global", "model.layer._target_=lmlab.models.attention.Head"],
        ["model=bigram", "model._target_=training.test_others_parts.Dropping", "streams=global"],
        ["model=gpt", "model.n_embd=8", "model.dropout=0.2", "streams=global"],
    ],
    ids=["EMA", "head", "dropout of one's own", "gpt dropout"],
)
def test_stacking_steps_changes_nothing_for_others_parts(experiment, monkeypatch, words):
    monkeypatch.syspath_prepend(str(__file__).rsplit("/training/", 1)[0])
    one, ten = (experiment(*words, f"data.steps_per_batch={k}") for k in (1, 10))
    assert same(weights(one), weights(ten))
    assert curves(one) == curves(ten)
    assert one.record["metrics"] == ten.record["metrics"]


def test_a_callback_of_ones_own_sees_every_step(experiment, monkeypatch):
    monkeypatch.syspath_prepend(str(__file__).rsplit("/training/", 1)[0])
    import training.test_others_parts as loaded

    loaded.EveryStep.seen = []
    experiment("model=bigram", "+callbacks.mine={_target_:training.test_others_parts.EveryStep}")
    assert loaded.EveryStep.seen == list(range(1, 25))


def test_a_run_with_averaged_weights_resumes_exactly(experiment, tmp_path):
    words = ["model=head", f"+callbacks.ema={EMA}", "checkpoint.keep=3", "checkpoint.every=7"]
    whole = experiment(*words, f"output_dir={tmp_path / 'whole'}")
    cut = experiment(*words, f"output_dir={tmp_path / 'cut'}")
    for path in cut.checkpoints()[:2]:
        path.unlink()
    cut.update(status="killed")
    resumed = train({**cut.config, "run": str(cut.path)})
    assert same(weights(whole), weights(resumed))
    assert whole.record["metrics"] == resumed.record["metrics"]


def fitted(composed, path, *words: str, plugins=()) -> list[torch.Tensor]:
    """The weights after some steps with a Trainer of one's own."""
    config = composed(
        f"corpus.path={path}",
        *("model=head", "data.block_size=8", "data.batch_size=4", "eval.iters=1"),
        *("trainer.max_steps=40", "eval.every=40", "data.val_fraction=0.01", "optimizer=sgd"),
        *("optimizer.lr=1.0", "trainer.gradient_clip_val=0.5", *words),
    )
    config = checked(config)
    text = text_of(config)
    data, module = make_data(config, text), Parts.of(config, text).module()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = L.Trainer(
        max_steps=40,
        accelerator="cpu",
        plugins=list(plugins),
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(module, datamodule=data)
    return [p.detach() for p in module.model.parameters()]


@pytest.mark.parametrize(
    "optimizer",
    [
        ["optimizer=sgd"],
        ["optimizer=adamw", "optimizer.lr=0.01"],
        ["optimizer=sgd", "+optimizer@optimizer.rules.a=adamw", "+optimizer.rules.a.params=*y*"],
    ],
    ids=["sgd", "adamw", "both"],
)
@pytest.mark.filterwarnings("ignore")
def test_scaled_gradients_are_clipped_by_their_real_size(composed, tinyshakespeare_path, optimizer):
    exact = fitted(composed, tinyshakespeare_path, *optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    half = MixedPrecision(precision="16-mixed", device="cpu", scaler=scaler)
    scaled = fitted(composed, tinyshakespeare_path, *optimizer, plugins=[half])
    for left, right in zip(exact, scaled, strict=True):
        torch.testing.assert_close(left, right, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("name", ["projector", "sample", "pictures", "histograms"])
def test_a_callback_that_is_null_is_left_out(composed, name):
    off, left_out = composed(f"callbacks.{name}=null"), composed(f"~callbacks.{name}")
    assert off == left_out
    assert fingerprint(off) == fingerprint(left_out)


def test_callbacks_are_turned_off_as_loggers_are(lab, text, tmp_path):
    words = ["corpus=file", f"corpus.path={text}", *SMALL, "callbacks.projector=null"]
    words += ["callbacks.sample=null", "logger.csv=null", "name=off"]
    status, _, err = lab("train", "-m", *words, "seed=1,2", "sweep.name=off")
    assert status == 0, err
    for path in tmp_path.glob("sweeps/off/*/config.yaml"):
        assert [*RunDirectory(path.parent).config["callbacks"]] == ["pictures", "histograms"]
    status, _, err = lab("train", *words, "dry_run=true")
    assert status == 0, err
    status, _, err = lab("train", *words, "run_dir=one")
    assert status == 0, err
    status, _, err = lab("train", "from=one", "callbacks.pictures=null", "trainer.max_steps=3")
    assert status == 0, err
