"""The report of a sweep: what is printed and what is kept."""

import csv
import io
import json
import math
import os
import re
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sweeps.made import CONFIG, made
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from lmlab.errors import LabError
from lmlab.sweeps.command import main
from lmlab.sweeps.report.leaderboard import leaderboard
from lmlab.sweeps.report.notes import listed
from lmlab.sweeps.report.terminal import print_sections
from lmlab.sweeps.report.written import exact_files, markdown
from lmlab.sweeps.reporting import report
from lmlab.sweeps.table.curves import averaged, mean_curves, read_curves, shared_steps
from lmlab.sweeps.table.reading import RunFiles, read
from lmlab.sweeps.table.settings import load, tabulate
from lmlab.sweeps.table.words import duration


def table(folder: Path):
    return load([folder])


NONSENSE = [
    *(None, True, -1, 1.5, math.nan, math.inf, 10**400, "", "a\nb", "x" * 5000, "2026-13-45"),
    *([], [1], {}, {"a": {"b": [1]}}, {"val/loss": "x"}, {"val/loss_full": 10**400}),
    "[bold]no markup[/nope]",
]
FIELDS = ["status", "step", "metrics", "best", "seconds", "started", "corpus_sha256", "swept"]
FIELDS += ["parameters", "tokens", "error", "fingerprint", "tokens_per_second"]
KEYS = ["model", "optimizer", "trainer", "tokenizer", "data", "eval", "logger", "seed", "corpus"]


@pytest.mark.parametrize("field", FIELDS)
def test_no_record_keeps_the_others_from_the_table(tmp_path, field):
    good = made(tmp_path, {"model": "good"}, 2.0, curve={1: 3.0, 2: 2.0})
    for n, value in enumerate(NONSENSE):
        for seed in (1, 2):
            path = made(tmp_path, {"model": n, "seed": seed}, 2.5, curve={1: 3.0}) / "run.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    found = report(tmp_path, plots=field == "metrics")
    assert len(found.runs) == 1 + 2 * len(NONSENSE)
    assert list(found.runs["val/loss_full"][found.runs["directory"] == str(good)]) == [2.0]


@pytest.mark.parametrize("key", KEYS)
def test_no_config_keeps_the_others_from_the_table(tmp_path, key):
    good = made(tmp_path, None, 2.0)
    for value in NONSENSE:
        path = made(tmp_path, None, 2.5) / "config.yaml"
        path.write_text(json.dumps({**CONFIG, key: value}))  # it is YAML
    found = report(tmp_path, plots=key == "model")
    assert str(good) in list(found.runs["directory"])


# A file of a run directory that the table or the pictures read, and what becomes of it.
DAMAGES = [
    ("config.yaml", b"a: " + b"[" * 50_000),
    ("config.yaml", b"a: &a [*a]"),
    ("config.yaml", b"\xff\0"),
    ("config.yaml", None),
    (".lock", None),
    ("metrics.csv", b"\xff\0 no table"),
    ("metrics.csv", b"step,val/loss\n" + b"9" * 400 + b",1.0\n-3,2.0\n"),
    ("metrics.csv", b"step,val/loss\n1," + b"9" * 400 + b"\n"),
    ("metrics.csv", b"step,val/loss\n1\n"),
    ("metrics.csv", None),
]


@pytest.mark.parametrize(("name", "content"), DAMAGES)
def test_no_damaged_file_keeps_the_others_from_the_report(tmp_path, name, content):
    """A pipe, where there is no content."""
    for seed in (1, 2):
        made(tmp_path, {"model": "good", "seed": seed}, 2.0, curve={1: 3.0, 2: 2.0})
        path = made(tmp_path, {"model": "bad", "seed": seed}, 2.5, "running", {1: 3.0}) / name
        path.unlink(missing_ok=True)
        os.mkfifo(path) if content is None else path.write_bytes(content)
    found = report(tmp_path, plots=name == "metrics.csv")
    assert len(found.runs) == 4
    assert found.settings.loc[found.best, "model"] == "good"


def notes(found) -> str:
    return "\n".join(leaderboard(found).notes)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def rows_in(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars of one run, as TensorBoard's own backend reads them."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return {
        tag: [(e.step, make_ndarray(e.tensor_proto).item()) for e in events.Tensors(tag)]
        for tag in events.PluginTagToContent("scalars")
    }


@pytest.fixture
def sweep(tmp_path) -> Path:
    folder = tmp_path / "sweep"
    for model, loss in (("head", 2.0), ("bigram", 3.0)):
        for seed in (1, 2):
            curve = {step: loss + seed / step for step in (10, 20, 30)}
            made(folder, {"model": model, "seed": seed}, loss + seed / 10, curve=curve)
    return folder


def test_a_text_edited_between_two_seeds_is_not_folded_and_that_is_said(tmp_path):
    for seed, sha in ((1, "a" * 64), (2, "b" * 64), (3, "b" * 64)):
        made(tmp_path, {"model": "head", "seed": seed}, 2.0 + seed, corpus_sha256=sha)
    made(tmp_path, {"model": "bigram", "seed": 1}, 4.0, corpus_sha256="b" * 64)
    found = table(tmp_path)
    assert found.keys == ["model", "corpus_sha256"]
    assert sorted(found.runs["setting"].value_counts()) == [1, 1, 2]
    assert "runs of one config have read different texts" in notes(found)


def test_runs_of_other_code_are_not_folded_and_that_is_said(tmp_path):
    for seed, code in ((1, {"mine": "ab"}), (2, {"mine": "cd"}), (3, {"mine": "ab"})):
        made(tmp_path, {"model": "mine", "seed": seed}, 2.0, code=code)
    made(tmp_path, {"model": "mine", "seed": 4}, None, "failed")  # before it was known
    found = table(tmp_path)
    assert found.keys == ["code"]
    assert sorted(found.runs["setting"].value_counts()) == [1, 1, 2]
    assert "different code of your own" in notes(found)


def test_what_runs_were_computed_on_is_said_where_it_is_not_one_thing(tmp_path):
    on = {"threads": 1, "processor": "X", "device": "cpu"}
    made(tmp_path, {"model": "head", "seed": 1}, 2.0, **on)
    made(tmp_path, {"model": "head", "seed": 2}, 2.0)  # an older record
    assert "among these runs" not in notes(table(tmp_path))
    before = [{**on, "threads": 4}]
    made(tmp_path, {"model": "head", "seed": 3}, 2.0, **on, computed_before=before)
    page = notes(table(tmp_path))
    assert "threads: 1, 4 among these runs" in page
    assert page.count("among these runs") == 1
    assert len(table(tmp_path).settings) == 1


@pytest.fixture
def failing(sweep) -> Path:
    path = made(sweep, {"model": "gpt", "seed": 1}, None, "failed", error="LabError: loss is\nNaN")
    (path / "train.log").write_text("the whole story")
    made(sweep, {"model": "gpt", "seed": 2}, None, "running")
    (made(sweep, {"model": "gpt", "seed": 3}) / "run.json").write_text('{"status": "do')
    return sweep


def test_two_models_with_two_seeds_from_training_to_the_report(lab, text):
    small = ["corpus=file", "corpus.path=text.txt", "trainer.accelerator=cpu", "eval.iters=1"]
    small += ["data.block_size=8", "eval.every=2", "callbacks.sample.max_new_tokens=5"]
    status, said, err = lab(
        "train", "-m", *small, "model=bigram,head", "seed=1,2", "trainer.max_steps=4"
    )
    assert (status, err) == (0, "")
    (sweep,) = Path("outputs/sweeps").iterdir()
    losses: dict[str, list[float]] = {}
    for path in sweep.glob("*/run.json"):
        record = json.loads(path.read_text())
        losses.setdefault(record["swept"]["model"], []).append(record["metrics"]["val/loss_full"])
    for line in rows_of(sweep / "leaderboard.csv"):
        of_model = losses[line["model"]]
        assert line["n"] == "2"
        assert float(line["val/loss_full"]) == pytest.approx(statistics.mean(of_model), abs=1e-14)
        assert float(line["val/loss_full sd"]) == pytest.approx(
            statistics.stdev(of_model), abs=1e-14
        )
        assert (sweep / line["directory"] / "run.json").is_file()
        assert f"{statistics.mean(of_model):.4f} ± {statistics.stdev(of_model):.4f}" in said
    kept = table(sweep)
    curves = mean_curves(averaged(kept.runs))
    for model in losses:
        mean = curves[kept.settings.index[kept.settings["model"] == model][0]]
        assert [step for step, _ in mean["val/loss"]] == [0, 2, 4]
        runs = [
            tensorboard(path.parent)
            for path in sweep.glob("*/run.json")
            if json.loads(path.read_text())["swept"]["model"] == model
        ]
        for tag in ("val/loss", "val/bpc", "train/loss_eval"):
            for i, (_, value) in enumerate(mean[tag]):
                assert value == pytest.approx(statistics.mean(r[tag][i][1] for r in runs), rel=1e-6)
    assert {path.name for path in (sweep / "plots").iterdir()} >= {"curves.png"}
    runs_before = len(read([Path("outputs")])[0])
    main(["outputs", "--no-plots"])
    assert len(read([Path("outputs")])[0]) == runs_before == 4  # what it keeps is no run


def test_failures_are_told_with_reason_and_log(failing, capsys):
    report(failing, plots=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "6 runs: 4 done, 1 failed, 1 killed; 3 settings" in said
    assert "LabError: loss is NaN log: " in said
    log = re.search(r"log: (\S+train\.log)", said)
    assert Path(log[1]).read_text() == "the whole story"
    assert "its process ended without a word after step 100" in said
    assert re.search(r"unreadable \S+run\.json cannot be read", said)
    assert "1 failed, 1 killed" in said


def test_a_pipe_has_every_column_whole_and_a_narrow_terminal_every_figure(failing):
    found = table(failing)
    for width, terminal in ((80, False), (100, True), (40, True)):
        written = io.StringIO()
        shown = Console(file=written, width=width, force_terminal=terminal, no_color=True)
        print_sections("sweep", [leaderboard(found)], shown)
        said = re.sub(r"\x1b\[[\d;]*m", "", written.getvalue())
        assert "…" not in said
        for setting in found.settings[:2].to_dict("records"):
            mean, deviation = setting["val/loss_full"], setting["val/loss_full sd"]
            assert f"{mean:.4f} ± {deviation:.4f}" in said
            assert setting["directory"] in said.replace("\n", "")
        rows = [line for line in said.splitlines() if re.match(r" +\d  ", line)]
        assert len(rows) >= 3
        if width == 100:
            assert max(map(len, rows[:3])) <= 100


def test_by_shows_the_best_setting_for_each_value(tmp_path, capsys):
    for rule in ("sgd", "adam"):
        for lr in (0.1, 0.2, 0.3):
            made(tmp_path, {"optimizer": rule, "optimizer.lr": lr, "seed": 1}, lr + len(rule))
    main([str(tmp_path), "--by", "optimizer", "--no-plots"])
    rows = [
        line.split() for line in capsys.readouterr().out.splitlines() if re.match(r" \d ", line)
    ]
    assert [(row[1], row[2]) for row in rows] == [("sgd", "0.1"), ("adam", "0.1")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonesuch"], "nonesuch: no such directory"),
        (["empty"], "empty holds no run"),
        ([], "required: folder"),
        (["sweep", "--by", "modle"], "did you mean model?"),
        (["sweep", "--metric", "accuracy"], "invalid choice"),
        (["nonesuch", "--watch"], "nonesuch: no such directory"),
        (["empty", "--watch"], "empty holds no run"),
        (["sweep", "empty", "--watch"], "--watch: one folder at a time, not 2"),
        (["nonesuch", "--watch", "--at", "soon"], "--at soon: a number and its unit"),
    ],
)
def test_errors_are_one_line(sweep, monkeypatch, capsys, words, said):
    monkeypatch.chdir(sweep.parent)
    Path("empty").mkdir()
    with pytest.raises(SystemExit) as exit:
        main(words)
    assert exit.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_folder_that_cannot_be_written_to_is_said_after_the_table(sweep, capsys):
    (sweep / ".report.json").mkdir()
    with pytest.raises(SystemExit) as exit:
        main([str(sweep), "--write"])
    said = capsys.readouterr()
    assert exit.value.code == 2
    assert "2.1500 ± 0.0707" in said.out
    assert re.fullmatch(r"error: \S+\.report\.json cannot be read: it is no regular.*\n", said.err)


def test_several_folders_are_one_table_and_nothing_is_kept(tmp_path, capsys):
    made(tmp_path / "a", {"model": "head", "seed": 1}, 2.0)
    made(tmp_path / "b", {"model": "head", "seed": 2}, 3.0)
    before = sorted(tmp_path.rglob("*"))
    main([str(tmp_path / "a"), str(tmp_path / "b")])
    assert "2.5000 ± 0.7071" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=20)


@settings(max_examples=8)
@given(st.lists(st.tuples(TEXTS, st.floats(allow_nan=False)), min_size=2, unique=True))
def test_csv_gives_back_what_was_in_the_runs(values):
    runs = [
        RunFiles(
            Path(f"nowhere/{i}"),
            "done",
            {"swept": {"key": key, "seed": i}, "metrics": {"val/loss_full": loss}},
            None,
        )
        for i, (key, loss) in enumerate(values)
    ]
    found = tabulate(runs, [], "val/loss_full")
    files = exact_files([leaderboard(found, folder=Path("nowhere"))])
    lines = rows_in(files["runs.csv"])
    if "key" in found.keys:
        assert {(line["key"], float(line["val/loss_full"])) for line in lines} == set(values)
    assert [line["directory"] for line in lines] == [
        Path(path).name for path in found.runs["directory"]
    ]
    folded = rows_in(files["leaderboard.csv"])
    assert sum(int(line["n"]) for line in folded) == len(values)


def test_csv_tells_a_loss_that_is_no_number_from_none(tmp_path):
    made(tmp_path, {"model": "head"}, math.nan, step=7)
    made(tmp_path, {"model": "bigram"}, None, "failed")
    files = exact_files([leaderboard(table(tmp_path))])
    for name in ("runs.csv", "leaderboard.csv"):
        assert [line["val/loss_full"] for line in rows_in(files[name])] == ["nan", ""]
    assert [line["step"] for line in rows_in(files["runs.csv"])] == ["7", "100"]


def test_markdown_is_a_table_whatever_the_values_hold(tmp_path):
    for i, value in enumerate(["a|b", "<b>`x`*", "line\nbreak", "y" * 300, [0.9, 0.99]]):
        made(tmp_path, {"the|key": value, "seed": 1}, 2.0 + i)
    lines = markdown("sweep", [leaderboard(table(tmp_path))]).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 5
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert r"a\|b" in rows[2]
    assert "[0.9, 0.99]" in rows[-1]


def test_files_are_replaced_when_asked_again(sweep, capsys):
    report(sweep)
    assert (sweep / "plots/loss-by-model.png").is_file()
    report(sweep)
    for path in sweep.glob("*/run.json"):
        if json.loads(path.read_text())["swept"] != {"model": "head", "seed": 1}:
            path.unlink()
    report(sweep)
    assert not (sweep / "plots/loss-by-model.png").exists()
    assert (sweep / "plots/curves.png").is_file()
    assert {path.name for path in sweep.glob(".*")} == {".report.json", ".report.lock"}


def means(folder: Path, *curves: dict[int, float] | None) -> dict[int, tuple[float, float]]:
    """By step: mean and deviation over runs with these curves."""
    for seed, curve in enumerate(curves):
        made(folder, {"seed": seed}, 2.0, curve=curve)
    shared = shared_steps(read_curves(table(folder).runs, ["val/loss"]), "val/loss")
    by_step = shared.groupby("step")["val/loss"].agg(["mean", "std"])
    return {step: (mean, deviation) for step, mean, deviation in by_step.itertuples()}


def test_bands_are_at_the_steps_that_all_seeds_have(tmp_path):
    found = means(tmp_path / "a", {10: 3.0, 20: 2.0, 30: 1.0}, {10: 5.0, 20: math.nan}, None)
    assert found == {10: (4.0, pytest.approx(statistics.stdev([3.0, 5.0])))}
    assert means(tmp_path / "b", {10: 1.0}, {20: 1.0}) == {}
    assert means(tmp_path / "c", {10: 1.0}, {10: math.inf}) == {}
    many = means(tmp_path / "d", *[dict.fromkeys(range(1, 1001), 2.0)] * 2)
    assert len(many) == 100
    assert {b - a for a, b in pairwise(many)} == {10}
    assert max(many) == 1000


@pytest.mark.parametrize(
    ("text", "curve"),
    [
        ("", {}),
        ("step", {}),
        ("\xff\n", {}),
        ("a,b\n1,2\n", {}),
        ("step,val/loss\n10,2.5\n20,", {10: 2.5}),
        ("step,val/loss\n10,2.5\n20,2.4,9,9\n\0\0", {10: 2.5, 20: 2.4}),
        ("step,val/loss\n10,0.1\n10,2.5\n-1,2\nx,2\n1e300,2\n20,y\n", {10: 2.5}),
        ("step,train/loss,val/loss\n10,1,2.5\n10,1,\n", {10: 2.5}),
    ],
)
def test_curves_that_were_cut_off_give_what_is_there(tmp_path, text, curve, recwarn):
    path = made(tmp_path, {"seed": 1})
    (path / "metrics.csv").write_bytes(text.encode("latin-1"))
    found = read_curves(table(tmp_path).runs, ["val/loss"]).dropna()
    assert dict(zip(found["step"], found["val/loss"], strict=True)) == curve
    assert not recwarn.list  # a warning would stand in the middle of the report


def test_durations_read_well():
    assert [duration(s) for s in (math.nan, 0.04, 59.94, 59.96, 3599.6, 7500)] == [
        *("", "0.0 s", "59.9 s", "1 min 00 s", "1 h 00 min", "2 h 05 min")
    ]


def test_help_and_the_table_import_no_torch(sweep):
    program = "import sys; from lmlab.sweeps.command import main\ntry:\n  main({words})\nfinally:\n"
    program += "  assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    for words, heavy in (
        (["--help"], {"torch", "lightning", "matplotlib", "numpy", "pandas", "hydra", "rich"}),
        ([str(sweep), "--no-plots"], {"torch", "lightning", "hydra", "matplotlib", "altair"}),
        ([str(sweep)], {"torch", "lightning", "tensorflow", "hydra", "matplotlib"}),
    ):
        code = program.format(words=words, heavy=heavy)
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_job_and_its_launcher_import_nothing_that_only_a_report_needs():
    code = "import sys, lmlab.sweeps.launch.job, lmlab.sweeps.launch.launching\n"
    code += "import hydra_plugins.lmlab_grid\n"
    code += "heavy = {'pandas', 'altair', 'vl_convert', 'matplotlib', 'numpy'}\n"
    code += "assert not heavy & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_run_that_can_be_read_is_an_error_that_says_so(tmp_path):
    (made(tmp_path, {"seed": 1}) / "run.json").write_text("{")
    with pytest.raises(LabError, match=r"holds no run; .*run\.json cannot be read"):
        report(tmp_path)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([3, 1, 2], "1 to 3"),
        ([2, 1], "1, 2"),
        ([10, 1, 2, 3, 4, 7, 9], "1 to 4, 7, 9, 10"),
        (list(range(100)), "0 to 99"),
        (["b", 5, None], "5, b, null"),
        ([1.5, 1, 2, 3], "1 to 3, 1.5"),
    ],
)
def test_many_seeds_are_listed_in_few_words(values, text):
    assert listed(values) == text
