"""What is used of Lightning's inside is in one file, and each of it fails here first when Lightning
moves it."""

from functools import partial
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader

from lmlab.errors import LabError
from lmlab.models.bigram import Bigram
from lmlab.training import lightning_inside
from lmlab.training.lightning_inside import (
    begin_at,
    count_steps,
    gradients_shared,
    nobody_between,
    packages_asked_once,
    refusals_of_callbacks,
    scales_gradients,
    sees_batches,
)
from lmlab.training.module import LanguageModule
from lmlab.training.optimizers.schedules import constant

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
SRC = Path(lightning_inside.__file__).parents[1]
OF_THE_INSIDE = ("fit_loop", "optim_step_progress", "batch_progress", "is_overridden", '"scaler"')


def test_all_of_it_is_in_one_file():
    files = [path for path in SRC.rglob("*.py") if path.name != "lightning_inside.py"]
    for path in files:
        assert not [name for name in OF_THE_INSIDE if name in path.read_text("utf-8")], path


class Watches(L.Callback):
    def on_after_backward(self, *_):
        pass


class Own(L.Callback):
    def on_train_epoch_start(self, *_):
        pass


def fitted(*callbacks: L.Callback, check=lambda trainer, module: None, **settings) -> L.Trainer:
    """A Trainer at the end of a batch of one step, after which `check` is called."""

    class Checked(LanguageModule):
        def training_step(self, windows, batch_idx):
            check(self.trainer, self)

    lengths = np.ones(5), np.ones(5)
    module = Checked(
        Bigram(5, 4), partial(torch.optim.SGD, lr=0.1), constant, *lengths, max_steps=3
    )
    module.on_train_start = lambda: None
    quiet = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
    )
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=1, callbacks=[*callbacks], **quiet,
        **settings,
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.zeros(1, 4, dtype=torch.int64)))
    return trainer


def test_packages_bring_callbacks_of_which_each_trainer_has_its_own(monkeypatch):
    point = EntryPoint("own", f"{__name__}:Own", "lightning.pytorch.callbacks_factory")
    asked = []
    monkeypatch.setattr(
        lightning_inside, "entry_points", lambda **of: asked.append(of) or EntryPoints([point])
    )
    lightning_inside._makers.cache_clear()
    brought = []
    for _ in range(2):
        with packages_asked_once():
            trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        brought += [one for one in trainer.callbacks if type(one).__name__ == "Own"]
    lightning_inside._makers.cache_clear()
    assert asked == [{"group": "lightning.pytorch.callbacks_factory"}]
    assert len({id(one) for one in brought}) == 2


def test_steps_that_lightning_did_not_see_are_counted():
    assert fitted(check=lambda trainer, _: count_steps(trainer, 7)).global_step == 7


def test_loops_begin_where_a_checkpoint_is():
    checkpoint = {"global_step": 12, "loops": {}}
    trainer = fitted(check=lambda trainer, _: begin_at(trainer, checkpoint, 3))
    assert trainer.global_step == 12
    assert trainer.fit_loop.epoch_loop.batch_progress.total.ready == 1 + 3
    assert "loops" not in checkpoint


@pytest.mark.parametrize(
    ("callbacks", "settings", "is_free"),
    [
        ([], {}, True),
        ([Own()], {}, True),
        ([Watches()], {}, False),
        ([], {"profiler": "simple"}, False),
    ],
)
def test_the_short_cut_is_for_where_nobody_is_between(callbacks, settings, is_free):
    asked = []
    fitted(*callbacks, check=lambda *at: asked.append(nobody_between(*at)), **settings)
    assert asked == [is_free]


def test_a_scaler_is_seen():
    from lightning.pytorch.plugins import MixedPrecision

    seen = []
    scaler = torch.amp.GradScaler("cpu")
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    fitted(check=lambda trainer, _: seen.append(scales_gradients(trainer)), plugins=[plugin])
    fitted(check=lambda trainer, _: seen.append(scales_gradients(trainer)))
    assert seen == [True, False]


def test_callbacks_that_see_batches_are_known_by_their_hooks():
    assert [sees_batches(kind) for kind in (Watches, Own)] == [True, False]


def test_one_process_shares_no_gradients():
    def share(trainer, _):
        for last in (True, False):
            with gradients_shared(trainer, last):
                pass

    fitted(check=share)


def test_who_refuses_is_found_in_the_traceback():
    nodes = {"stop": {"_target_": "lightning.pytorch.callbacks.EarlyStopping"}}
    stops = EarlyStopping("no/metric", check_on_train_epoch_end=True)
    said = r"callbacks\.stop: EarlyStopping: .*no/metric"
    with pytest.raises(LabError, match=said), refusals_of_callbacks(nodes):
        fitted(stops)
    with pytest.raises(ZeroDivisionError), refusals_of_callbacks(nodes):
        fitted(stops, check=lambda *_: 1 / 0)
