"""Tasks of a run, and of a trained one: through the commands."""

import json
import re
from collections.abc import Sequence

import numpy as np
import pytest
from comparing import checkpoint, curves, same, tensorboard, weights
from small import FOX, ROOT

from lmlab.bounds import Count
from lmlab.config.fingerprint import fingerprint
from lmlab.data.tokenizer import CharTokenizer
from lmlab.errors import LabError
from lmlab.handles import Run
from lmlab.sweeps.report.leaderboard import leaderboard
from lmlab.sweeps.table.settings import load
from lmlab.sweeps.table.words import figure
from lmlab.tasks.asked import documents
from lmlab.tasks.items import Item, Task
from lmlab.tasks.scores import ACCURACIES

TASKS = ["tasks=text", "tasks.word.n_items=20", "tasks.order=null", "tasks.name=null"]
TASKS += ["tasks.line.n_items=20"]
ASKED = {
    f"tasks/{task}/{score}"
    for task in ("word", "line")
    for score in (*ACCURACIES, "margin", "bits_per_byte")
}


def test_a_run_asks_at_every_nth_evaluation_and_at_the_end(experiment):
    words = ["model=bigram", "trainer.max_steps=40", "eval.every=8"]
    without = experiment(*words)
    run = experiment(*words, *TASKS, "eval.tasks_every=2")
    rows = {int(row["step"]): row for row in curves(run)}
    asked_at = {step for step, row in rows.items() if ASKED & {k for k, v in row.items() if v}}
    assert asked_at == {0, 16, 32, 40}
    assert tensorboard(run).keys() >= ASKED
    metrics = run.record["metrics"]
    assert metrics.keys() - without.record["metrics"].keys() == ASKED
    assert {name: rows[40][name] for name in ASKED} == {n: str(metrics[n]) for n in ASKED}
    assert same(weights(without), weights(run))
    assert same(checkpoint(without)["random"], checkpoint(run)["random"])


def test_they_are_asked_at_the_end_alone(experiment):
    run = experiment("model=bigram", *TASKS, "eval.tasks_every=0")
    asked_at = [row["step"] for row in curves(run) if row.get("tasks/word/accuracy")]
    assert asked_at == ["24"]


def test_no_tasks_leave_the_fingerprint_as_it_was(composed):
    plain = composed("model=bigram")
    before = {key: value for key, value in plain.items() if key != "tasks"}
    before["eval"] = {k: v for k, v in plain["eval"].items() if k != "tasks_every"}
    assert plain["tasks"] == {}
    assert fingerprint(before) == fingerprint(plain)
    assert fingerprint(composed("model=bigram", "+tasks.x=null")) == fingerprint(plain)
    assert fingerprint(composed("model=bigram", "tasks=text")) != fingerprint(plain)


@pytest.fixture
def fox(trained, tmp_path, lab):
    """A run on a text of one sentence, and where it is."""
    import shutil

    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (path,) = (tmp_path / "outputs" / "fox").iterdir()
    return path


def test_evaluate_says_what_the_run_said_at_its_end(experiment, lab):
    run = experiment("model=bigram", *TASKS)
    status, out, err = lab("evaluate", f"run={run.path}", *TASKS)
    assert (status, err) == (0, "")
    metrics = run.record["metrics"]
    row = next(line.split() for line in out.splitlines() if line.startswith("word"))
    assert row[1:4] == ["20", "0.50", f"{metrics['tasks/word/accuracy']:.3f}"]


def test_two_runs_are_compared_item_by_item(experiment, lab):
    run, other = experiment("model=bigram", "optimizer.lr=0.1"), experiment("model=ngram")
    status, out, err = lab("evaluate", f"run={run.path}", *TASKS, f"against={other.path}")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("minus ")]
    assert lines[at + 1].split() == [
        *("task", "score", "items", "difference", "better", "worse", "p"),
    ]
    assert [line.split()[0] for line in lines[at + 2 :]] == ["word"] * 4 + ["line"] * 4
    assert re.match(r"word  accuracy +20 +[+-]0\.\d+ \([+-]\d", lines[at + 2])


def test_a_run_beside_itself_differs_by_nothing(experiment, lab):
    run = experiment("model=bigram")
    # A folder of runs stands for its newest, here as for run=.
    _, out, _ = lab("evaluate", f"run={run.path}", *TASKS, f"against={run.path.parent}")
    assert f"minus {run.path}" in out
    differences = re.findall(r"[+-]\d\.\d+ \([+-]\d\.\d+ [+-]\d\.\d+\)", out)
    assert len(differences) == 8
    assert all(float(d.split()[0]) == 0 for d in differences)


def test_items_of_unknown_characters_are_left_out_and_counted(fox, tmp_path, lab):
    pairs = [("the fox", "the fxo"), ("the FOX", "the fox"), ("dog", "ogd")]
    lines = [json.dumps({"sentence_good": a, "sentence_bad": b}) for a, b in pairs]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    words = ["tasks=minimal_pairs", "tasks.minimal_pairs.path=pairs.jsonl"]
    status, out, err = lab("evaluate", f"run={fox}", *words)
    assert (status, err) == (0, "")
    assert re.search(r"^minimal_pairs  2 +0\.50 +", out, re.MULTILINE)
    assert (
        "minimal_pairs: 1 items left out, with characters that the tokenizer does not know" in out
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tasks=txt"], "tasks=txt: "),
        (["tasks=minimal_pairs"], "tasks.minimal_pairs.path is missing"),
        (
            ["tasks=minimal_pairs", "tasks.minimal_pairs.path=no.jsonl"],
            "tasks.minimal_pairs: path=no.jsonl: no such file",
        ),
        (["tasks=text", "tasks.word.n_items=0"], "tasks.word.n_items=0: "),
        (["tasks=text", "tasks.word.items=9"], "unknown key tasks.word.items"),
        (["tasks=text", "tasks.word._target_=math.sqrt"], "tasks.word"),
        (["against=outputs"], "against=outputs: runs are compared by tasks; give tasks=text"),
        (["tasks=text", "against=outputs"], "against=outputs is not a run directory"),
    ],
)
def test_what_cannot_be_asked_is_one_line(fox, lab, words, said):
    status, _, err = lab("evaluate", f"run={fox}", *words)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert said in err


def test_a_broken_file_stops_a_run_before_it_begins(fox, tmp_path, lab):
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    words = ["tasks=minimal_pairs", "tasks.minimal_pairs.path=pairs.jsonl", "name=broken"]
    status, _, err = lab("train", *FOX[:-1], *words)
    assert status == 2
    assert err == "error: tasks.minimal_pairs: pairs.jsonl, line 1: it lacks 'sentence_good'\n"
    assert not (tmp_path / "outputs" / "broken").exists()


def test_a_run_in_python_is_asked_too(experiment):
    run = Run(experiment("model=bigram").path)
    node = {"_target_": "lmlab.tasks.from_text.RealWord", "n_items": 9}
    metrics = run.evaluate(tasks={"mine": node})
    assert {name for name in metrics if name.startswith("tasks/mine/")} == {
        f"tasks/mine/{score}" for score in (*ACCURACIES, "margin", "bits_per_byte")
    }
    assert run.evaluate(tasks="text").keys() > {"tasks/name/accuracy", "tasks/order/margin"}
    with pytest.raises(LabError, match="has to be told a path"):
        run.evaluate(tasks="minimal_pairs")
    with pytest.raises(LabError, match="tasks=txt"):
        run.evaluate(tasks="txt")


def test_questions_are_made_of_documents_one_by_one():
    tokenizer = CharTokenizer.fit(["abc"]).with_end_of_text()
    ids = np.concatenate(
        [*(tokenizer.encode("ab"), [tokenizer.end_of_text]), tokenizer.encode("ca")]
    )
    assert documents(ids, tokenizer) == ["ab", "ca"]
    assert documents(tokenizer.encode("ca"), CharTokenizer.fit(["abc"])) != []


def test_the_leaderboard_has_their_accuracy(experiment, tmp_path):
    runs = [experiment("model=bigram", *TASKS, f"seed={seed}") for seed in (1, 2)]
    runs.append(experiment("model=ngram"))
    section = leaderboard(load([tmp_path]))
    columns = {column.heading: column for column in section.columns}
    assert [name for name in columns if name.startswith("tasks/")] == [
        *("tasks/word/accuracy", "tasks/line/accuracy"),
    ]
    values = [run.record["metrics"]["tasks/word/accuracy"] for run in runs[:2]]
    cells = dict(zip(columns["model"].cells, columns["tasks/word/accuracy"].cells, strict=True))
    assert cells == {"Bigram": figure(np.mean(values), np.std(values, ddof=1)), "NGram": ""}
    without = leaderboard(load([runs[2].path]))
    assert not any("tasks" in column.heading for column in without.columns)


def test_the_documents_task_makes_items():
    text = (ROOT / "docs" / "extending.md").read_text("utf-8")
    (source,) = re.findall(r"```python\n(class Sums.*?)```", text, re.DOTALL)
    names = {"Task": Task, "Item": Item, "Count": Count, "Sequence": Sequence}
    exec(source, names)
    assert names["Sums"](3).items([])[2] == Item("2 + 2 =", (" 4", " 5"))
