"""A model is one class and one YAML: whatever the lab asks of it stands in the class."""

import ast
import importlib
from pathlib import Path

import pytest
import torch
from comparing import curves, same, tensorboard, weights
from extensions.conftest import TINY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from torch import nn

import lmlab.models
from lmlab.models.sampling import generate
from lmlab.runs.directory import RunDirectory
from lmlab.training.beginning.restored import restore

SRC = Path(lmlab.__file__).parent
MINE = ["--config-dir=conf", "corpus=file", "corpus.path=mypackage/fox.txt", *TINY]


def trained(lab, *words: str) -> RunDirectory:
    status, _, err = lab("train", *MINE, *words, "run_dir=run")
    assert (status, err) == (0, "")
    return RunDirectory(Path("run"))


def shown_as(run: RunDirectory) -> dict[str, object]:
    """The run's row in the HParams tab."""
    events = EventAccumulator(str(run.path)).Reload()
    content = events.PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
    row = metadata.parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, str(value.WhichOneof("kind"))) for name, value in row.items()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=near", "model.n_embd=0"], "model.n_embd=0: input should be greater than or equal"),
        (["model=near", "model.n_embd=8.5"], "model.n_embd=8.5: input should be a valid integer"),
        (["model=near", "+model.dropout=1"], "model.dropout=1: input should be less than 1"),
        (["model=near", "+model.n_head=3"], "n_head=3: model.n_embd=8 is not divisible by it"),
        (["model=near", "+model.n_heads=2"], "model.n_heads=2; did you mean model.n_head?"),
        (["model=near", "~model.n_embd"], "model.n_embd is missing"),
        (["model=gated", "model.layer.strength=much"], "model.layer.strength='much': input should"),
        (["model=gated", "+model.layer.strenth=1"], "did you mean model.layer.strength?"),
        (["model=pairwise", "+model.vocab_size=9"], "unknown key model.vocab_size=9"),
        (["optimizer=mine", "optimizer.lr=-1"], "optimizer.lr=-1: input should be greater than 0"),
        (["model=near", "model.n_embed=3"], "model.n_embed; did you mean model.n_embd?"),
        (["schedule=mine", "+schedule.evry=2"], "schedule.evry=2; did you mean schedule.every?"),
        (["schedule=mine", "schedule.every=often"], "schedule.every='often': input should be"),
        (["loss=mine", "loss.share=1"], "loss.share=1: input should be less than 1"),
        (["loss=mine", "loss._target_=torch.nn.Identity", "~loss.share"], "not a lmlab.training"),
        (["loss=mine", "loss._target_=mypackage.losing.Each", "~loss.share"], "to make a scalar"),
        (["callbacks=mine", "callbacks.evaluations.file=3"], "evaluations.file=3: input should be"),
        (["logger=mine", "~logger.lines._target_"], "logger.lines._target_ is missing"),
    ],
)
def test_what_its_annotations_refuse_is_one_line(here, lab, words, said):
    status, out, err = lab("train", *MINE, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not Path("outputs").exists()


def test_beside_ones_own_model_a_bad_value_of_the_labs_is_refused_without_an_import(command, own):
    blocked = own / "without"
    blocked.mkdir()
    for name in ("torch", "lightning"):
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} was imported')")
    (own / "mypackage/__init__.py").write_text("raise RuntimeError('mypackage was imported')")
    words = [*MINE, "model=near", "data.batch_size=0"]
    assert "data.batch_size=0" in command("train", *words, status=2, first_on_path=blocked)


def test_a_whole_number_is_a_float_where_the_class_wants_one(here, lab):
    run = trained(lab, "model=near", "+model.dropout=0", "optimizer=mine", "optimizer.lr=1")
    config = run.config
    assert [type(n) for n in (config["model"]["dropout"], config["optimizer"]["lr"])] == [float] * 2


def test_a_loss_is_what_a_step_descends_and_evaluations_are_what_they_were(here, lab):
    runs = []
    for words in ([], ["loss=mine", "loss.share=0"], ["loss=mine", "loss.share=0.9"]):
        every = ["trainer.log_every_n_steps=1", *words, f"run_dir=run{len(runs)}"]
        assert lab("train", *MINE, "model=near", *every)[0] == 0
        runs.append(RunDirectory(Path(f"run{len(runs)}")))
    plain, unsmoothed, smoothed = runs
    assert same(weights(plain), weights(unsmoothed))
    assert plain.record["metrics"] == unsmoothed.record["metrics"]
    assert not same(weights(plain), weights(smoothed))
    before_a_step = {curves(run)[1]["train/loss"] for run in runs}
    assert len(before_a_step) == 1  # it shows the text's own
    assert plain.record["fingerprint"] not in [run.record["fingerprint"] for run in runs[1:]]


def test_its_maps_and_its_name_are_in_tensorboard(here, lab):
    run = trained(lab, "model=near", "+model.n_layer=2")
    tags = {tag for tag in tensorboard(run) if tag.startswith("view")}
    assert tags == {"view/attention/layer_1", "view/attention/layer_2"}
    row = shown_as(run)
    assert [row[name] for name in ("model", "n_layer", "n_embd")] == ["Near", 2, 8]


def test_its_table_is_in_tensorboard(here, lab):
    run = trained(lab, "model=pairwise")
    assert [step for step, _ in tensorboard(run)["view/bigram"]] == [8]
    assert shown_as(run)["model"] == "Pairwise"


def test_a_model_that_counts_is_given_the_text_and_not_trained(here, lab):
    run = trained(lab, "model=counting")
    assert run.record["step"] == 0
    assert restore(run, "last").model.counts.sum() > len("fox") * 100
    row = shown_as(run)
    assert [row.get(name) for name in ("optimizer", "schedule", "lr")] == ["none", "none", None]


@pytest.mark.parametrize(("model", "remembers"), [("near", True), ("mine", False)])
def test_it_is_given_new_tokens_alone_if_it_says_so(here, lab, model, remembers):
    own, seen = restore(trained(lab, f"model={model}"), "last").model, []
    idx, n = torch.tensor([[1, 2, 3]]), 10
    own.register_forward_hook(lambda module, args, logits: seen.append(args[0].shape[1]))
    tokens = torch.cat([*generate(own, idx, n, generator=torch.Generator().manual_seed(0))], 1)
    assert seen == ([3, 1, 1, 1, 1, 1, 8, 8, 8, 8] if remembers else [3, 4, 5, 6, 7, *[8] * 5])
    source, whole = torch.Generator().manual_seed(0), idx
    with torch.no_grad():
        for _ in range(n):
            probs = own(whole[:, -8:])[:, -1].softmax(-1)
            whole = torch.cat([whole, torch.multinomial(probs, 1, generator=source)], dim=1)
    assert torch.equal(tokens, whole[:, 3:])


def test_a_callback_that_wants_the_tokenizer_is_given_it(here, lab):
    Path("mypackage/reading.py").write_text(
        "import lightning as L\n"
        "from lmlab.bounds import Count\n"
        "class Reads(L.Callback):\n"
        "    def __init__(self, tokenizer, seed, n: Count, more: int = 3):\n"
        "        print('reads', tokenizer.kind, seed, n, more)\n"
    )
    reads = ["model=bigram", "+callbacks.reads={_target_:mypackage.reading.Reads,n:1}"]
    assert "reads char 1337 1 3" in lab("train", *MINE, *reads)[1]
    assert "reads char 5 1 3" in lab("train", *MINE, *reads, "+callbacks.reads.seed=5")[1]
    status, _, err = lab("train", *MINE, *reads, "callbacks.reads.n=0")
    assert (status, "callbacks.reads.n=0" in err) == (2, True)


def models() -> set[str]:
    """The names of the modules in lmlab.models."""
    found = set()
    for path in (SRC / "models").glob("*.py"):
        module = importlib.import_module(f"lmlab.models.{path.stem}")
        found |= {
            name
            for name, kind in vars(module).items()
            if isinstance(kind, type) and issubclass(kind, nn.Module)
            if kind.__module__.startswith("lmlab.models.")
        }
    return found


def mentioned(path: Path) -> set[str]:
    """The names in a file's code, and the last names of its texts that are dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Name(name) | ast.Attribute(attr=name) | ast.alias(name):
                names.add(name.rpartition(".")[2])
            case ast.Constant(str(text)) if len(text) < 100:
                names.add(text.rpartition(".")[2])
    return names


def test_no_model_is_named_outside_their_folder():
    assert {"Bigram", "GPT", "Head", "NGram", "Stack"} <= models()
    for path in SRC.rglob("*.py"):
        if path.parent.name in ("models", "inside", "exchange") or path.name == "export.py":
            continue  # these say what others call them
        assert not mentioned(path) & models(), path
