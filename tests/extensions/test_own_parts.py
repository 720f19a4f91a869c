"""What the README says under "Add your own", done by somebody else's package."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from extensions.conftest import OWN, TINY, forget_package
from small import SMALL, cut

from lmlab.config import build
from lmlab.config.own_code import code_of, code_of_target
from lmlab.data.corpus import Corpus, from_files
from lmlab.data.tokens import tokenize
from lmlab.errors import LabError
from lmlab.runs.directory import RunDirectory


def only(folder: Path) -> RunDirectory:
    (path,) = folder.iterdir()
    return RunDirectory(path)


def test_eight_parts_are_trained_evaluated_sampled_and_resumed(here, lab):
    assert lab("train", *OWN, *TINY)[0] == 0
    run = only(Path("outputs/mine"))
    assert run.record["status"] == "done"
    lines = (run.path / "lines.txt").read_text().splitlines()
    assert lines[0] == "from None"
    assert [line for line in lines if line.startswith("8 val/loss ")]
    assert (run.path / "evaluations.txt").read_text() == "3"  # one before the first step
    assert (run.path / "metrics.csv").is_file()

    loss = run.record["metrics"]["val/loss_full"]
    # 256 bytes and 20 pairs: the tokenizer has its argument, here and in the other commands.
    assert "vocabulary of 276" in (run.path / "train.log").read_text()
    assert f"val/loss_full  {loss:.4f}" in lab("evaluate", f"run={run.path}")[1]
    said = lab("generate", f"run={run.path}", "prompt=the fox", "max_new_tokens=30")[1]
    assert said.startswith("the fox")

    cut(run, 4)
    assert lab("train", f"run={run.path}")[::2] == (0, "")
    assert run.record["step"] == 8
    assert (run.path / "evaluations.txt").read_text() == "3"  # one before the first step
    assert "from 4" in (run.path / "lines.txt").read_text()


@pytest.mark.slow
def test_a_changed_model_is_another_job_and_its_old_number_is_not_given_back(command, own):
    words = ["-m", *OWN, *TINY, "model=mine,gated", "seed=1", "sweep.name=both"]
    command("train", *words)
    blocked = own / "without"
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('torch was imported')")
    again = command("train", *words, first_on_path=blocked)
    assert "2/2 done (2 before)" in again

    shapes = own / "mypackage/shapes.py"  # which the model's module imports, not the config
    shapes.write_text(shapes.read_text().replace("2 * n_embd", "3 * n_embd"))
    said = command("train", *words)
    assert "2/2 done" in said
    assert "before)" not in said
    assert "they are not folded" in said
    records = [json.loads(path.read_text()) for path in own.glob("outputs/sweeps/both/*/run.json")]
    sizes = {r["parameters"] for r in records if "mine" in r["swept"]["model"]}
    assert (len(records), len(sizes)) == (4, 2)


def test_a_run_goes_on_only_with_the_code_that_it_began_with(here, lab):
    words = [*OWN, *TINY, "resume=auto"]
    assert lab("train", *words)[0] == 0
    run = only(Path("outputs/mine"))
    model = here / "mypackage/mymodel.py"
    model.write_text(model.read_text().replace("relu", "tanh"))
    cut(run, 4)
    status, out, err = lab("train", f"run={run.path}")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "cannot go on" in err
    assert str(model) in err
    assert run.record["step"] == 4
    assert lab("train", *words)[0] == 0  # what looks for a run of its own begins a new one
    assert len(list(Path("outputs/mine").iterdir())) == 2


def test_a_logger_that_raises_does_not_end_the_training_and_is_told_once(here, lab):
    status, out, err = lab("train", *OWN, *TINY, "+logger.lines.fails_at=4")
    assert (status, err) == (0, "")
    assert out.count("logger.lines: ConnectionError: nobody listens") == 1
    run = only(Path("outputs/mine"))
    assert run.record["status"] == "done"
    log = (run.path / "train.log").read_text()
    assert log.count("in log_metrics") == 1  # where it was, once
    lines = (run.path / "lines.txt").read_text()
    assert "8 val/loss " in lines  # it is asked again
    assert "4 val/loss " not in lines


def test_lightnings_own_loggers_write_into_the_run_directory(here, lab):
    theirs = "+logger.theirs._target_=lightning.pytorch.loggers.CSVLogger"
    assert lab("train", *OWN, *TINY, theirs, "logger.csv=null")[0] == 0
    run = only(Path("outputs/mine"))
    assert (run.path / "lightning_logs/version_0/metrics.csv").is_file()
    assert not (run.path / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["+logger.x._target_=os.mkdir"], "logger.x._target_=os.mkdir: not a lightning"),
        (
            ["+logger.x._target_=mypackage.watching.Lines", "+logger.x.nonsense=1"],
            "logger.x.nonsense=1",
        ),
        (["+logger.x=true"], "x is a logger by its _target_, or null"),
        (["logger.csv=true"], "csv is a logger by its _target_, or null"),
        (["+tokenizer.n_pears=3"], "n_pears=3; did you mean tokenizer.n_pairs?"),
        (["~tokenizer.n_pairs"], "tokenizer.n_pairs is missing"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is(here, lab, words, expected):
    status, out, err = lab("train", *OWN, *TINY, *words)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert expected in err
    assert not Path("outputs").exists()


def test_the_switches_of_older_run_directories_keep_their_meaning(here, lab):
    assert (
        lab("train", *TINY, "model=bigram", "corpus=file", "corpus.path=mypackage/fox.txt")[0] == 0
    )
    run = only(Path("outputs/bigram"))
    stored = {**run.config, "logger": {"tensorboard": False, "csv": True}}
    (run.path / "config.yaml").write_text(yaml.safe_dump(stored))
    for path in [*run.path.glob("events*"), run.path / "metrics.csv"]:
        path.unlink()
    cut(run, 4)
    status, _, err = lab("train", f"run={run.path}")
    assert (status, err) == (0, "")
    assert not list(run.path.glob("events*"))
    assert (run.path / "metrics.csv").is_file()
    written = (run.path / "metrics.csv").read_bytes()
    cut(run, 4)
    status, _, err = lab("train", f"run={run.path}", "logger.csv=false")
    assert (status, err) == (0, "")
    assert (run.path / "metrics.csv").read_bytes() == written


def test_any_key_of_ones_own_corpus_says_where_its_text_is_now(here, lab):
    assert lab("train", *OWN, *TINY, "name=verses")[0] == 0
    run = only(Path("outputs/verses"))
    Path("mypackage/fox.txt").rename("mypackage/moved.txt")
    status, _, err = lab("evaluate", f"run={run.path}")
    assert (status, err.count("\n"), "moved is given by corpus.<key>" in err) == (2, 1, True)
    assert lab("evaluate", f"run={run.path}", "corpus.name=moved")[0] == 0
    assert run.config["corpus"]["name"] == "moved"
    Path("mypackage/moved.txt").rename("mypackage/again.txt")
    assert lab("train", f"run={run.path}", "corpus.name=again")[0] == 0
    assert run.config["corpus"]["name"] == "again"


def test_tokens_are_made_anew_for_other_arguments_and_for_other_code(here, tmp_path):
    from mypackage.text import Pairs

    corpus, told = from_files("mypackage/fox.txt"), []

    def vocabulary(n_pairs: int) -> int:
        told.clear()
        arguments = {"n_pairs": n_pairs}
        found = tokenize(corpus, Pairs, tmp_path / "cache", told.append, arguments)
        assert found.tokenizer.decode(found.ids.whole()) == Path("mypackage/fox.txt").read_text()
        return found.tokenizer.vocab_size

    assert (vocabulary(5), bool(told)) == (261, True)
    assert (vocabulary(6), bool(told)) == (262, True)
    assert (vocabulary(5), bool(told)) == (261, False)
    with Path("mypackage/text.py").open("a") as file:
        file.write("# edited\n")
    assert (vocabulary(5), bool(told)) == (261, True)


def test_code_is_found_without_importing_it(own, monkeypatch):
    monkeypatch.syspath_prepend(own)
    (own / "mypackage/__init__.py").write_text("raise RuntimeError('imported')\n")
    names = {"mypackage", "mypackage.mymodel", "mypackage.shapes"}
    assert set(code_of_target("mypackage.mymodel.MyModel")) == names
    for target in ("torch.nn.Linear", "lmlab.models.gpt.GPT", "os.mkdir", "nosuch.Thing", ""):
        assert code_of_target(target) == {}
    layer = {"layer": [{"_target_": "mypackage.shapes.widened"}]}
    config = {"model": layer, "logger": {"x": {"_target_": "mypackage.watching.Lines"}}}
    assert set(code_of(config)) == {"mypackage", "mypackage.shapes"}  # a logger changes nothing


def test_code_of_a_package_is_followed_through_all_its_imports(own, monkeypatch):
    monkeypatch.syspath_prepend(own)
    package = own / "mypackage"
    (package / "deep").mkdir()
    (package / "deep/__init__.py").write_text("")
    (package / "deep/far.py").write_text("from mypackage import learning\n")
    (package / "shapes.py").write_text("import mypackage.deep.far\nfrom . import text\n")
    names = {"mymodel", "shapes", "deep", "deep.far", "learning", "text"}
    found = code_of_target("mypackage.mymodel.MyModel")
    assert set(found) == {"mypackage", *(f"mypackage.{name}" for name in names)}
    shutil.rmtree(package / "deep")
    assert "mypackage.deep" not in code_of_target("mypackage.mymodel.MyModel")


def test_a_function_whose_annotation_cannot_be_resolved_makes_nothing(here):
    Path("mypackage/odd.py").write_text("def odd(name: str) -> 'Nowhere': ...\n")
    with pytest.raises(LabError, match=r"mypackage\.odd\.odd: not a"):
        build.part({"_target_": "mypackage.odd.odd", "name": "x"}, "corpus", Corpus)


def test_evaluate_says_what_has_changed_and_takes_no_other_tokens(here, lab):
    assert lab("train", *OWN, *TINY)[0] == 0
    run = only(Path("outputs/mine"))
    text = here / "mypackage/text.py"
    text.write_text(text.read_text() + "# edited\n")
    status, out, _ = lab("evaluate", f"run={run.path}")
    assert (status, f"{text} has changed since this run was trained" in out) == (0, True)
    assert "val/loss_full" in out
    text.write_text(text.read_text().replace("-counts[pair], pair", "counts[pair], pair"))
    forget_package()
    status, _, err = lab("evaluate", f"run={run.path}")
    assert (status, err.count("\n")) == (2, 1)
    assert "its tokenizer makes other tokens of the same text now" in err


def test_a_study_does_not_go_on_with_other_code(here, lab):
    search = ["-m", *OWN, *TINY, "hydra/sweeper=optuna", "sweep.name=study"]
    search += ["optimizer.lr=tag(log, interval(1e-4, 1e-1))"]
    assert lab("train", *search, "hydra.sweeper.n_trials=1")[0] == 0
    shapes = here / "mypackage/shapes.py"
    shapes.write_text(shapes.read_text().replace("2 *", "3 *"))
    status, _, err = lab("train", *search, "hydra.sweeper.n_trials=2")
    assert (status, err.count("\n")) == (2, 1)
    assert "cannot go on with another code of mypackage.shapes" in err


# Of each kind: what a part is, in place of one that works, and what is said of it.
WRONG_IN_KIND = """
import numpy, torch
from pathlib import Path
from torch import nn
from lmlab.data.tokenizer import Tokenizer
from mypackage.mymodel import MyModel
from mypackage.text import Pairs

class NoEncode(Tokenizer):
    kind = "none"
    @classmethod
    def fit(cls, pieces, n_pairs): ...
    def token_bytes(self, token): ...
    def to_json(self): ...
    @classmethod
    def _from_json(cls, state): ...
class NoKind(NoEncode):
    kind = None
    def encode(self, text): ...
class FitsNothing(Pairs):
    @classmethod
    def fit(cls, pieces, n_pairs): ...
class GivesAList(Pairs):
    def encode(self, text): return [1]
class GivesFloats(Pairs):
    def encode(self, text): return numpy.ones(len(text))
class GivesRows(Pairs):
    def encode(self, text): return numpy.ones((1, len(text)), int)
class GivesNegatives(Pairs):
    def encode(self, text): return numpy.full(len(text), -1)
class GivesText(Pairs):
    def token_bytes(self, token): return "a"
class KeepsBytes(Pairs):
    def to_json(self): return {"pairs": b"1"}
class NoSize(Pairs):
    def __init__(self, pairs): self.pieces = [b"a"]

def nothing(step: int, max_steps: int, every: int) -> float: ...
def a_text(step: int, max_steps: int, every: int) -> float: return "0.5"
def later(step: int, max_steps: int, every: int) -> float:
    if step < 3: return 1.0
def no_number(step: int, max_steps: int, every: int) -> float: return float("nan")

class Frozen(MyModel):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.requires_grad_(False)
class Detached(MyModel):
    def forward(self, idx): return super().forward(idx).detach()
class InPairs(MyModel):
    def forward(self, idx):
        logits = super().forward(idx)
        return (logits, None) if self.training else logits
class Bare(nn.Module):
    def __init__(self, vocab_size: int, block_size: int, n_embd: int): ...
def no_model(vocab_size: int, block_size: int, n_embd: int) -> nn.Module: ...

class BrokenTokenizer(Pairs):
    def encode(self, text): raise KeyError("inside")
def broken(step: int, max_steps: int, every: int) -> float: return 1 / (3 - step)
class Broken(MyModel):
    def forward(self, idx): return super().forward(idx) if not self.training else self.inside
class BrokenFromTheStart(MyModel):
    def __init__(self, **sizes): raise KeyError("inside")
class BrokenLater(MyModel):
    def forward(self, idx):
        if idx.shape[1] > 2 and Path("broken").exists(): raise KeyError("inside")
        return super().forward(idx)
"""


@pytest.mark.parametrize("kind", ["tokenizer", "schedule", "model"])
def test_a_part_that_is_wrong_in_kind_is_told_what_it_has_to_do(here, lab, kind):
    (here / "mypackage/wrong.py").write_text(WRONG_IN_KIND)
    expected = {
        "tokenizer": {
            "NoEncode": "lacks encode (encode: Ids of `text`, 1-D",
            "NoKind": "lacks kind, a text",
            "FitsNothing": "FitsNothing.fit has to return a Tokenizer; it returns None",
            "GivesAList": "encode has to return a 1-D array of integers; it returns a list",
            "GivesFloats": "it returns one of 1-D float64",
            "GivesRows": "it returns one of 2-D int64",
            "GivesNegatives": "made the id -1, beyond its vocabulary",
            "GivesText": "token_bytes has to return bytes; it returns 'a'",
            "KeepsBytes": "to_json has to return a dict of JSON; it returns {'pairs': b'1'}",
            "NoSize": "has to set vocab_size",
        },
        "schedule": {
            "nothing": "nothing(0, 8) has to return a number that the learning rate is",
            "a_text": "it returns '0.5'",
            "later": "later(3, 8) has to return a number",
            "no_number": "it returns nan",
        },
        "model": {
            "Frozen": "Frozen has no parameters to train: give trainer.max_steps=0",
            "Detached": "Detached.forward has to return logits with a gradient",
            "InPairs": "InPairs.forward has to return logits; in training it returns a tuple",
            "Bare": "Bare.__init__ has to begin with super().__init__()",
            "no_model": "no_model has to make a torch.nn",
        },
    }[kind]
    for name, told in expected.items():
        status, _, err = lab("train", *OWN, *TINY, f"{kind}._target_=mypackage.wrong.{name}")
        assert (status, err.count("\n")) == (2, 1), (name, err)
        assert err.startswith(f"error: {kind}: "), err
        assert told in err


@pytest.mark.parametrize(
    ("kind", "name", "error"),
    [
        ("tokenizer", "BrokenTokenizer", KeyError),
        ("schedule", "broken", ZeroDivisionError),
        ("model", "Broken", AttributeError),
        ("model", "BrokenFromTheStart", KeyError),
    ],
)
def test_a_fault_inside_a_part_keeps_its_place_and_the_part_is_named(here, lab, kind, name, error):
    (here / "mypackage/wrong.py").write_text(WRONG_IN_KIND)
    with pytest.raises(error) as raised:
        lab("train", *OWN, *TINY, f"{kind}._target_=mypackage.wrong.{name}")
    last = f"This was raised inside {kind}._target_=mypackage.wrong.{name}"
    assert raised.value.__notes__ == [last]
    assert "wrong.py" in {Path(entry.path).name for entry in raised.traceback}


def test_a_fault_inside_a_part_is_named_where_a_run_is_used(here, lab):
    (here / "mypackage/wrong.py").write_text(WRONG_IN_KIND)
    target = "model._target_=mypackage.wrong.BrokenLater"
    assert lab("train", *OWN, *TINY, target, "run_dir=run")[0] == 0
    Path("broken").touch()
    for command in ("evaluate", "generate"):
        with pytest.raises(KeyError) as raised:
            lab(command, "run=run")
        assert raised.value.__notes__ == [f"This was raised inside {target}"]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("EarlyStopping, monitor: nope", "callbacks.own: EarlyStopping: Early stopping cond"),
        ("ModelSummary, max_depth: -5", "callbacks.own: ModelSummary: `max_depth`"),
        ("StochasticWeightAveraging, swa_lrs: 0.1", "callbacks.own: StochasticWeightAveraging"),
    ],
)
def test_what_lightnings_callbacks_refuse_in_training_is_one_line(lab, text, own, expected):
    words = [*SMALL, "corpus=file", f"corpus.path={text}", "eval.every=2"]
    callback = f"+callbacks.own={{_target_: lightning.pytorch.callbacks.{own}}}"
    status, _, err = lab("train", *words, callback)
    assert status == 2
    assert err.startswith(f"error: {expected}")
    assert err.count("\n") == 1


def test_a_callback_that_is_false_or_null_is_turned_off(lab, text):
    words = [*SMALL, "corpus=file", f"corpus.path={text}", "run_dir=run"]
    status, _, err = lab("train", *words, "callbacks.projector=false", "+callbacks.own=null")
    assert (status, err) == (0, "")
    assert not {"projector", "own"} & {*RunDirectory(Path("run")).config["callbacks"]}
