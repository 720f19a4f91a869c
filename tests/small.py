"""A run that takes a second, and one that was cut short."""

from lmlab.runs.directory import RunDirectory

TINY = [  # of tinyshakespeare: a run of 24 steps and two evaluations
    # The full pass over val takes most of a tiny run's time: leave a small val split.
    "data.val_fraction=0.01",
    "data.batch_size=4",
    "data.block_size=8",
    "trainer.max_steps=24",
    "eval.every=12",
    "eval.iters=2",
    "trainer.log_every_n_steps=4",
    "callbacks.sample.max_new_tokens=8",
]

SMALL = [
    "model=bigram",
    "data.block_size=8",
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "eval.iters=1",
    "callbacks.sample.max_new_tokens=5",
]


def cut(run: RunDirectory, step: int) -> None:
    """Make a finished run one that was killed after its checkpoint of `step`."""
    for path in run.checkpoints():
        if path > run.step_checkpoint(step):
            path.unlink()
    run.update(status="running", step=step)
