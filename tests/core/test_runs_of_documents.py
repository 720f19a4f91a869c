"""A corpus of documents, from its file to what its model writes."""

import json
import math

import pytest
from comparing import assert_same_run
from small import train

from lmlab.config.fingerprint import fingerprint
from lmlab.errors import LabError
from lmlab.handles import Run
from lmlab.training.beginning.restored import restore

DOCUMENTS = ["né", "ab"] * 200


@pytest.fixture
def of_documents(tmp_path) -> list[str]:
    """The words of a command for a corpus of documents."""
    path = tmp_path / "two.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    return ["corpus=file", f"corpus.path={path}", "corpus.split=end", "data.val_fraction=0.1"]


def test_a_model_of_documents_begins_and_ends_them(experiment, lab, of_documents):
    run = experiment(
        *("model=gpt", "model.n_embd=16", "model.n_layer=1", "model.n_head=1", *of_documents),
        *("optimizer.lr=0.03", "trainer.max_steps=100", "eval.every=50"),
    )
    tokenizer = restore(run, "last").tokenizer
    assert tokenizer.end_of_text == 4
    assert run.record["train_tokens"] == 360 * 3
    assert run.sample.count("<|endoftext|>\n") == 2
    assert set(run.sample.split("<|endoftext|>\n")[:-1]) == {"né", "ab"}
    assert run.sample.startswith(("né", "ab")), "the prompt is the end of a document"

    opened = Run(run.path)
    first = opened.generate(max_new_tokens=9, seed=1)
    assert first in ("né", "ab")
    assert opened.generate("a", max_new_tokens=9) == "ab"
    on = opened.generate(max_new_tokens=9, stop=False, seed=1)
    assert on.startswith(f"{first}<|endoftext|>\n")
    assert on.count("<|endoftext|>\n") == 3
    status, said, err = lab("generate", f"run={run.path}", "samples=3", "seed=1")
    assert (status, err) == (0, "")
    assert said.splitlines()[-6:][1::2] == [
        opened.generate(max_new_tokens=9, seed=seed) for seed in (1, 2, 3)
    ]

    metrics = opened.evaluate()
    n_tokens, n_characters, n_bytes = 40 * 3 - 1, 40 * 2 - 1, 40 * 2.5 - 1
    nats = metrics["val/loss_full"] * n_tokens  # the end of each document among them
    assert metrics["val/bpc_full"] == pytest.approx(nats / math.log(2) / n_characters)
    assert metrics["val/bpb_full"] == pytest.approx(nats / math.log(2) / n_bytes, rel=0.02)
    _, said, _ = lab("evaluate", f"run={run.path}")
    assert "bits per character; the ends of documents count as tokens" in said
    assert f"val/bpb_full   {metrics['val/bpb_full']:.4f} bits per byte" in said


def test_documents_after_one_long_text_need_a_tokenizer_that_ends_them(
    experiment, lab, of_documents
):
    first = experiment("model=bigram", "tokenizer=byte", "trainer.max_steps=1", "eval.every=1")
    words = (*of_documents, f"from={first.path}", "trainer.max_steps=2")
    status, _, err = lab("train", *words)
    assert status == 2
    assert "the parent's tokenizer byte has no end-of-text id, and this corpus is of doc" in err
    second = experiment("model=bigram", "trainer.max_steps=1", "eval.every=1", *of_documents)
    text = str(of_documents[1]).replace("two.jsonl", "one.txt")
    with open(text.removeprefix("corpus.path="), "w") as file:  # noqa: PTH123
        file.write("abné" * 500)
    words = (f"from={second.path}", text, "trainer.max_steps=2", "run_dir=third")
    status, _, err = lab("train", *words)
    assert (status, err) == (0, ""), "the other way round all ids are known"


def test_what_is_said_of_documents_is_no_part_of_older_fingerprints(composed, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    config = composed("corpus=file", f"corpus.path={tmp_path}/a.txt")
    assert config["corpus"]["split"] == "hash"
    before = {**config, "corpus": {k: config["corpus"][k] for k in ("_target_", "path")}}
    assert fingerprint(config) == fingerprint(before)
    ended = {**config, "corpus": {**config["corpus"], "split": "end"}}
    assert fingerprint(ended) != fingerprint(config)


def test_packed_documents_are_trained_on_and_resumed_to_the_last_bit(
    experiment, of_documents, capsys
):
    words = ["model=modern", "model.n_embd=16", "model.n_layer=1", "model.n_head=2", *of_documents]
    words += ["data.order=documents", "data.steps_per_batch=5"]
    whole = experiment(*words)
    assert "360 documents, 25.00% of targets padding" in " ".join(capsys.readouterr().out.split())
    part = experiment(*words, "pause_at=7")
    train({**part.config, "run": str(part.path), "pause_at": None})
    assert_same_run(whole, part)
    model = restore(whole, "last").model
    assert model.end_of_text == 4  # evaluation and sampling stay within documents, too


def test_what_has_no_mask_and_what_has_no_documents_are_said(experiment, of_documents, capsys):
    words = ["model=bigram", "data.order=documents", "trainer.max_steps=2"]
    experiment(*words, *of_documents)
    assert "Bigram looks across their ends; model=modern does not" in capsys.readouterr().out
    with pytest.raises(LabError, match=r"^data\.order=documents: .* without documents; give data"):
        experiment(*words)
