"""A run that takes a second, and one that was cut short."""

from lmlab.runs import Run

SMALL = [
    "model=bigram",
    "data.block_size=8",
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "eval.iters=1",
    "callbacks.sample.max_new_tokens=5",
]


def cut(run: Run, step: int) -> None:
    """Make a finished run one that was killed after its checkpoint of `step`."""
    for path in run.checkpoints():
        if path > run.step_checkpoint(step):
            path.unlink()
    run.update(status="running", step=step)
