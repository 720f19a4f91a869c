"""Whatever small experiment one composes, stopping half-way changes nothing."""

import json
from pathlib import Path
from typing import Any

from comparing import same, weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import train

gpt = st.tuples(st.sampled_from([0.0, 0.3]), st.integers(1, 2)).map(
    lambda chosen: [f"model.dropout={chosen[0]}", f"model.n_layer={chosen[1]}", "model.n_embd=16"]
)
rungs = ["bigram", "bag_of_words", "head", "multi_head", "feed_forward", "residual", "layer_norm"]
models = st.one_of(
    st.sampled_from(rungs).map(lambda name: [f"model={name}"]),
    gpt.map(lambda more: ["model=gpt", *more]),
)
optimizers = st.sampled_from(["sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw"])


@st.composite
def experiments(draw: st.DrawFn) -> list[str]:
    several = draw(st.integers(1, 4))
    words = [
        *draw(models),
        f"optimizer={draw(optimizers)}",
        f"tokenizer={draw(st.sampled_from(['char', 'byte']))}",
        f"seed={draw(st.integers(0, 2**40))}",
        f"data.batch_size={draw(st.integers(1, 5))}",
        f"data.block_size={draw(st.integers(1, 16))}",
        f"data.steps_per_batch={several}",
        f"eval.every={draw(st.integers(1, 3))}",
        f"eval.protocol={draw(st.sampled_from(['random', 'full']))}",
        f"trainer.accumulate_grad_batches={draw(st.integers(1, 3))}",
        f"trainer.gradient_clip_val={draw(st.sampled_from(['null', '0.5']))}",
        f"trainer.precision={draw(st.sampled_from(['32-true', 'bf16-mixed']))}",
        f"trainer.log_every_n_steps={draw(st.integers(1, 3))}",
    ]
    if "model=gpt" not in words:
        words.append(f"streams={draw(st.sampled_from(['separate', 'global']))}")
    return words


@settings(
    max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(words=experiments())
def test_any_small_experiment_resumes_exactly(composed, text, tmp_path, words):
    # In the global stream samples and training draw in turn, and only one of these runs stops to
    # sample at its end.
    words = [*words, "~callbacks.sample", f"output_dir={tmp_path}", "trainer.max_steps=2"]
    config = composed("corpus=file", f"corpus.path={text}", *words)
    whole = train(config)
    part = train(with_steps(config, 1))
    resumed = train({**config, "from": str(part.path)})
    assert same(weights(whole), weights(resumed))
    assert whole.record["metrics"] == resumed.record["metrics"]
    assert Path(whole.path) != Path(resumed.path)


def with_steps(config: dict[str, Any], max_steps: int) -> dict[str, Any]:
    config = json.loads(json.dumps(config))
    config["trainer"]["max_steps"] = max_steps
    return config
