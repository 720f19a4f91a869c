"""A run that takes a second."""

SMALL = [
    "model=bigram",
    "data.block_size=8",
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "eval.iters=1",
    "callbacks.sample.max_new_tokens=5",
]
