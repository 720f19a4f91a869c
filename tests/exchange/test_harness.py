"""An exported model gets the same scores in lm-evaluation-harness, without a network.

The harness is installed by `make test-slow`, see requirements-lm-eval.lock.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lmlab.tasks.from_files import MinimalPairs, MultipleChoice
from lmlab.tasks.from_text import NextLine, WordOrder
from lmlab.tasks.items import Item
from lmlab.tasks.likelihood import ask
from lmlab.training.beginning.restored import restore

BLOCK_SIZE = 120
FOLDERS = [Path(sys.prefix) / name for name in ("transformers", "harness")]
# What the harness calls its own task is a YAML beside the data.
OURS_IN_YAML: dict[str, dict[str, Any]] = {
    "pairs": {
        "doc_to_text": "",
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "doc_to_target": 0,
        "target_delimiter": "",
    },
    "choices": {
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": " ",
    },
}


def questions(text: str) -> dict[str, list[dict[str, Any]]]:
    """100 sentences with two words swapped, and 100 lines of which one of two comes next."""
    # The harness refuses a choice that is longer than the model reads.
    sentences = [item.choices for item in WordOrder(n_items=200).items([text])]
    pairs = [pair for pair in sentences if len(pair[0]) < BLOCK_SIZE][:100]
    lines: list[Item] = NextLine(n_items=100, context=100).items([text])  # of which it reads less
    return {
        "pairs": [
            {"sentence_good": good.strip(), "sentence_bad": bad.strip()} for good, bad in pairs
        ],
        "choices": [
            {
                "context": item.context,
                "choices": [
                    choice.strip() for choice in (item.choices[::-1] if i % 2 else item.choices)
                ],
                "answer": i % 2,
            }
            for i, item in enumerate(lines)
        ],
    }


def harness(model: str, tasks: Path, out: Path) -> dict[str, list[dict[str, Any]]]:
    """What the harness says to each item, in their order."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(out / "home")}
    words = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"]
    words += ["--model_args", model, "--tasks", *OURS_IN_YAML, "--include_path", str(tasks)]
    words += ["--log_samples", "--output_path", str(out), "--batch_size", "8"]
    path = os.pathsep.join(map(str, FOLDERS))
    subprocess.run(
        words, env={**os.environ, **offline, "PYTHONPATH": path}, check=True, timeout=500
    )
    told = {}
    for name in OURS_IN_YAML:
        (file,) = out.rglob(f"samples_{name}_*.jsonl")
        samples = [json.loads(line) for line in file.read_text().splitlines()]
        told[name] = sorted(samples, key=lambda sample: sample["doc_id"])
    return told


@pytest.mark.slow
@pytest.mark.skipif(
    not (FOLDERS[1].is_dir() or os.environ.get("CI")), reason="make test-slow installs the harness"
)
def test_the_harness_gives_each_item_the_same_score(
    experiment, lab, tinyshakespeare_text, tmp_path
):
    words = [
        "model=gpt",
        f"data.block_size={BLOCK_SIZE}",
        "trainer.max_steps=48",
        "optimizer.lr=3e-3",
    ]
    run = experiment(*words)
    folder, tasks = tmp_path / "exported", tmp_path / "tasks"
    assert lab("export", f"run={run.path}", "to=hf", f"folder={folder}")[0] == 0
    tasks.mkdir()
    for name, records in questions(tinyshakespeare_text[-111_540:]).items():
        data = tasks / f"{name}.jsonl"
        data.write_text("".join(json.dumps(record) + "\n" for record in records))
        about = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "num_fewshot": 0,
            "metric_list": [{"metric": "acc"}],
        }
        (tasks / f"{name}.yaml").write_text(yaml.safe_dump(about | OURS_IN_YAML[name]))
    trained = restore(run, "last")
    # A text without a context begins behind a line break here, and there behind what it is told.
    opening = int(trained.tokenizer.opening()[0])
    theirs = harness(
        f"pretrained={folder},dtype=float32,prefix_token_id={opening}", tasks, tmp_path / "told"
    )
    for name, kind_of_task in (("pairs", MinimalPairs), ("choices", MultipleChoice)):
        items = kind_of_task(str(tasks / f"{name}.jsonl")).items([])
        answers = ask(trained.model, trained.tokenizer, items)
        told = np.array([[float(r[0]) for r in s["filtered_resps"]] for s in theirs[name]])
        assert told.shape == answers.log_probs.shape == (100, 2)
        np.testing.assert_allclose(answers.log_probs, told, rtol=1e-5, atol=1e-4)
        score = np.array([sample["acc"] for sample in theirs[name]])
        ours = answers.log_probs.argmax(1) == [item.answer for item in items]
        np.testing.assert_array_equal(score, ours)
        assert 0 < score.mean() < 1
