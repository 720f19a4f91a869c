"""The main path on a GPU, where there is one: `make test-gpu`.

LMLAB_TEST_ACCELERATOR=cpu runs the same tests on the CPU.
"""

import os
from pathlib import Path

import pytest
import torch
from comparing import checkpoint, weights

from lmlab.runs.directory import RunDirectory

ACCELERATOR = os.environ.get("LMLAB_TEST_ACCELERATOR", "gpu")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        ACCELERATOR == "gpu" and not torch.accelerator.is_available(), reason="no GPU is here"
    ),
]

SMALL = ["corpus=file", "corpus.path=text.txt", "data.block_size=8", "data.batch_size=4"]
SMALL += ["trainer.max_steps=24", "eval.every=12", "eval.iters=2", "checkpoint.keep=3"]
SMALL += ["callbacks.sample.max_new_tokens=8", f"trainer.accelerator={ACCELERATOR}"]
GPT = ["model=gpt", "model.n_embd=16", "model.n_head=2", "model.n_layer=2"]


def run(lab, *words: str) -> RunDirectory:
    status, _, err = lab("train", *SMALL, *words)
    assert (status, err) == (0, "")
    folder = next(word.partition("=")[2] for word in words if word.startswith("run_dir="))
    return RunDirectory(Path(folder))


@pytest.mark.parametrize("model", ["bigram", "bag_of_words", "multi_head", "layer_norm", "ngram"])
def test_every_rung_trains_and_is_evaluated_as_on_a_cpu(lab, text, model):
    there = run(lab, f"model={model}", "run_dir=there")
    here = run(lab, f"model={model}", "run_dir=here", "trainer.accelerator=cpu")
    for name, loss in here.record["metrics"].items():
        assert there.record["metrics"][name] == pytest.approx(loss, rel=1e-3), name
    status, out, err = lab("evaluate", "run=there", f"accelerator={ACCELERATOR}")
    assert (status, err) == (0, "")
    assert f"{there.record['metrics']['val/loss_full']:.4f} nats" in out


def test_the_same_seed_gives_the_same_weights_and_a_resumed_run_too(lab, text):
    words = [*GPT, "model.dropout=0.1", "trainer.gradient_clip_val=1.0"]
    whole = run(lab, *words, "run_dir=whole")
    cut = run(lab, *words, "run_dir=cut")
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], value, rtol=1e-5, atol=1e-6)
    cut.checkpoints()[0].unlink()
    cut.update(status="interrupted")
    assert lab("train", "run=cut")[0] == 0
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed"])
def test_low_precision_learns_what_full_precision_does(lab, text, precision):
    words = [*GPT, "trainer.gradient_clip_val=0.5", "optimizer.lr=1e-2"]
    exact = run(lab, *words, "run_dir=exact")
    low = run(lab, *words, "run_dir=low", f"trainer.precision={precision}")
    expected = exact.record["metrics"]["val/loss_full"]
    assert low.record["metrics"]["val/loss_full"] == pytest.approx(expected, abs=0.1)


def test_a_compiled_model_learns_the_same(lab, text):
    plain = run(lab, *GPT, "run_dir=plain")
    compiled = run(lab, *GPT, "run_dir=compiled", "trainer.compile=true")
    expected = plain.record["metrics"]["val/loss_full"]
    assert compiled.record["metrics"]["val/loss_full"] == pytest.approx(expected, abs=1e-3)
    assert checkpoint(compiled)["state_dict"].keys() == checkpoint(plain)["state_dict"].keys()


def test_generation_with_and_without_kept_keys_gives_the_same_text():
    from lmlab.models import gpt
    from lmlab.models.sampling import generate

    torch.manual_seed(0)
    device = torch.accelerator.current_accelerator() if ACCELERATOR == "gpu" else "cpu"
    model = gpt.GPT(65, 32, n_layer=2, n_head=2, n_embd=32).eval().to(device)
    idx = torch.randint(65, (3, 4), device=device)
    kept = torch.cat(list(generate(model, idx, 40, temperature=0)), dim=1)
    anew = idx
    with torch.no_grad():
        for _ in range(40):
            token = model(anew[:, -32:])[:, -1].argmax(-1, keepdim=True)
            anew = torch.cat([anew, token], dim=1)
    assert kept.equal(anew[:, 4:])
