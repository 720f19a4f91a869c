"""What a stored config may name: whatever stands in a run or a checkpoint, nothing of it is run."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from small import FOX, cut

import lmlab
from lmlab.config import trust
from lmlab.config.stored import MOVED, conf_dir
from lmlab.data.tokenizer import Tokenizer
from lmlab.display.for_tensorboard import board
from lmlab.errors import LabError
from lmlab.runs.directory import RunDirectory
from lmlab.sweeps import command
from lmlab.sweeps.board.scan import Scan
from lmlab.sweeps.tabs.means import Choice
from lmlab.training.beginning.restored import restore

# A package that says so when one of its modules is imported.
LOUD = "from pathlib import Path\nPath({folder!r}, 'exploded').mkdir(exist_ok=True)\n"
CLASSES = (
    "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, **_): super().__init__()\n"
)
CALLED = "def called(*args, **kwargs) -> nn.Module: ...\n"


@pytest.fixture
def here(lab, trained, tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of a folder with a run, with a package that nobody trusts, where `lab` works."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "loud.py").write_text(LOUD.format(folder=str(tmp_path)) + CLASSES + CALLED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LMLAB_CONFIG", str(tmp_path / "mine"))
    yield tmp_path
    for name in ("loud", "nets"):
        sys.modules.pop(name, None)


@pytest.fixture
def run(here) -> RunDirectory:
    (path,) = Path("outputs/fox").iterdir()
    return RunDirectory(path)


def change(run: RunDirectory, edit: Callable[[dict], None]) -> None:
    """Edit the config of a run, where it stands in its directory and in its checkpoints."""
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    edit(config)
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    for path in run.best.parent.iterdir():
        checkpoint = torch.load(path, weights_only=True)
        edit(checkpoint["config"])
        torch.save(checkpoint, path)


def put(key: str, value: Any) -> Callable[[dict], None]:
    def edit(config: dict) -> None:
        *path, last = key.split(".")
        for name in path:
            if not isinstance(config.get(name), dict):
                config[name] = {}
            config = config[name]
        config[last] = value

    return edit


def test_every_part_that_conf_names_may_be_named_by_a_run():
    groups = [
        p for p in conf_dir().rglob("*.yaml") if p.relative_to(conf_dir()).parts[0] != "hydra"
    ]
    named = {
        (path, node["_target_"])
        for path in groups
        for _, node in trust.nodes(yaml.safe_load(path.read_text("utf-8")))
        if "sweeper" not in path.read_text("utf-8")
    }
    assert len(named) > 40
    assert not [(path, name) for path, name in named if not trust.is_allowed(name)]
    of_runs = [target for target in MOVED.values() if not target.startswith("lmlab.sweeps.")]
    assert all(map(trust.is_allowed, of_runs))


def test_what_is_listed_is_there_and_is_a_class_or_one_of_our_functions():
    for name in trust.LISTED | trust.ARGUMENTS.keys():
        part: Any = lmlab_part(name)
        assert isinstance(part, type) or part.__module__ == name.rpartition(".")[0]


def lmlab_part(name: str) -> Any:
    import pkgutil

    return pkgutil.resolve_name(name)


@given(st.text(alphabet="\\${}:.a \"'?,[", max_size=12))
def test_a_stored_text_stays_as_it_is(text):
    stored = {"a": {"b": [text, {"c": f"{text}${{a.b}}"}]}}
    read = OmegaConf.to_container(OmegaConf.create(trust.as_texts(stored)), resolve=True)
    if text != "???":
        assert read == stored


MKDIR = {"_target_": "os.mkdir", "path": "exploded"}
REDUCE = "torch.fx.graph_module.reduce_graph_module"
SOURCE = {"_code": "import os\nos.mkdir('exploded')\ndef forward(self, x): return x\n"}
# What ran when it stood in a stored config, and other ways to name the same.
HOSTILE = {
    "a call below _recursive_": put(
        "model",
        {"_target_": "torch.nn.Identity", "x": {"_recursive_": False, "y": MKDIR}},
    ),
    "a call that an interpolation makes": put(
        "model",
        {"_target_": "torch.nn.Identity", "x": "${model.y}", "y": {"_target_": "${model.z}"}},
    ),
    "a resolver that calls": put(
        "model",
        {"_target_": "torch.nn.Identity", "x": "${oc.create:{_target_: os.mkdir, path: exploded}}"},
    ),
    "source text": put(
        "model", {"_target_": REDUCE, "body": {**SOURCE}, "import_block": "import os"}
    ),
    "source text, inside": put(
        "model",
        {
            "_target_": "torch.nn.Sequential",
            "_args_": [{"_target_": REDUCE, "body": {**SOURCE}, "import_block": ""}],
        },
    ),
    "an import": put("model", {"_target_": "loud.Net"}),
    "an import in a callback": put("callbacks.x", {"_target_": "loud.Net"}),
    "an import in a logger": put("logger.x", {"_target_": "loud.Net"}),
    "an import in a rule": put("optimizer.rules", {"a": {"params": "x", "_target_": "loud.Net"}}),
    "an import in a trial": put("sweep.trial", {"_target_": "loud.Net"}),
    "an import in a list": put("teacher.runs", [{"_target_": "loud.Net"}]),
    "an import as a tokenizer": put("tokenizer", {"_target_": "loud.Net"}),
    "a function": put("model", {"_target_": "loud.called"}),
    "tests that run": put("model", {"_target_": "unittest.__main__"}),
    "through a module of ours": put("model", {"_target_": "lmlab.runs.directory.subprocess.Popen"}),
}
# Of these two are texts, and what a sweep names is not read back.
TAKEN = ("a call that an interpolation makes", "a resolver that calls", "an import in a trial")


def generate(run: Path) -> list[str]:
    return ["generate", f"run={run}", "max_new_tokens=3"]


DOORS = {
    "generate": generate,
    "evaluate": lambda run: ["evaluate", f"run={run}"],
    "ensemble": lambda run: ["evaluate", "run=good", f"ensemble=['{run}']"],
    "export": lambda run: ["export", f"run={run}", f"folder={run}-out", "to=safetensors"],
    "run": lambda run: ["train", f"run={run}"],
    "from": lambda run: ["train", f"from={run}", "trainer.max_steps=4"],
    "dry run": lambda run: ["train", f"from={run}", "trainer.max_steps=4", "dry_run=true"],
    "teacher": lambda run: ["train", *FOX, f"+teacher.runs=['{run}']", "name=taught"],
    "a sweep of children": lambda run: ["train", "-m", f"from={run}", "seed=7", "name=child"],
}


@pytest.mark.slow
def test_nothing_that_a_stored_config_names_is_run_at_any_door(run, here):
    """In a fresh process, whose current folder is not where the lab's tests are."""
    shutil.copytree(run.path, "good")
    (here / "test_here.py").write_text("raise SystemExit('ran')")
    cases = []
    for n, (name, edit) in enumerate(HOSTILE.items()):
        path = Path(f"case{n}")
        shutil.copytree(run.path, path)
        change(RunDirectory(path), edit)
        cut(RunDirectory(path), 1)
        doors = list(DOORS.items())[: None if n < 2 else -1]
        cases += [(name, door, words(path)) for door, words in doors]
    script = here / "doors.py"
    script.write_text(
        "import contextlib, io, json, os, sys\n"
        "from lmlab import cli\n"
        "for name, door, words in json.load(open(sys.argv[1])):\n"
        "    sys.argv, err, out = words, io.StringIO(), io.StringIO()\n"
        "    os.environ.pop('HYDRA_FULL_ERROR', None)\n"
        "    status = 0\n"
        "    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):\n"
        "        try:\n"
        "            getattr(cli, words[0])()\n"
        "        except SystemExit as left:\n"
        "            status = left.code\n"
        "    there = os.path.exists('exploded')\n"
        "    if there: os.rmdir('exploded')\n"
        "    print('\\f' + json.dumps([name, door, status, err.getvalue(), there]))\n"
    )
    (here / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run(
        [sys.executable, str(script), "cases.json"], capture_output=True, text=True, timeout=300
    )
    results = [json.loads(line.splitlines()[0]) for line in done.stdout.split("\f")[1:]]
    assert len(results) == len(cases), done.stderr
    for name, door, status, err, exploded in results:
        assert not exploded, (name, door)
        if name in TAKEN:
            continue
        assert status, (name, door)
        if door != "a sweep of children":  # whose jobs say it on standard output
            assert err.startswith("error: "), (name, door, err)
            assert err.count("\n") == 1, (name, door, err)
            assert "allows it" in err or "no name of a class" in err, (name, door, err)


def test_a_table_of_runs_imports_nothing_that_they_name(here, run, capfd):
    folder = here / "all"
    for n, edit in enumerate(HOSTILE.values()):
        shutil.copytree(run.path, folder / str(n))
        change(RunDirectory(folder / str(n)), edit)
    command.main([str(folder), "--no-plots"])
    assert "done" in capfd.readouterr().out
    assert len(Choice(Scan(folder), 3).now().best or ()) == 3
    assert board.count(folder) == len(HOSTILE)
    assert not Path("exploded").exists()
    assert not {"loud", "unittest.__main__"} & sys.modules.keys()


# --- trees at random -------------------------------------------------------------------------

TARGETS = [
    *("os.mkdir", "os.system", "subprocess.Popen", "builtins.exec", "builtins.__import__"),
    *("loud.Net", "loud.called", "loud", "unittest.__main__", "this", "antigravity"),
    *(REDUCE, "torch.load", "torch.hub.load", "torch.nn.modules.module.os.mkdir", "torch.jit.load"),
    *("hydra.utils.instantiate", "hydra.utils.call", "functools.partial", "operator.methodcaller"),
    *(
        "lmlab.runs.directory.subprocess.Popen",
        "lmlab.models.gpt.os.mkdir",
        "lmlab.runs.checkpoint.read",
    ),
    *("lightning.pytorch.callbacks.LambdaCallback", "lightning.pytorch.loggers.CSVLogger"),
    *("${model.y}", "${oc.env:HOME}", "", ".", "loud.", ".loud.Net", "loud..Net", "loud:Net"),
    *("torch.nn.Identity", "torch.nn.Sequential", "torch.nn.ModuleDict", "torch.nn.Linear"),
    *(
        "torch.optim.SGD",
        "lmlab.models.bigram.Bigram",
        "lmlab.training.optimizers.schedules.constant",
    ),
    *("lmlab.display.samples.Sample", "lmlab.models.ensemble.Ensemble"),
]
TEXTS = [
    *("exploded", "${model.y}", "${oc.create:{_target_: os.mkdir, path: exploded}}", "loud.Net"),
    *("${oc.env:HOME}", "${oc.decode:'{_target_: loud.Net}'}", "${hydra:runtime.cwd}", "???"),
    *("\\${oc.env:HOME}", "import loud", "${.y}", "${..y}"),
]
WORDS = [
    "_args_",
    "_partial_",
    "_recursive_",
    "_convert_",
    "_call_",
    "_mode_",
    "_target",
    "defaults",
]
KEYS = [*WORDS, "_target_", "_target_", "_target_", "path", "x", "y", "z", "body", "members"]
PLACES = [
    *("model", "model.x", "model.y", "callbacks.x", "callbacks.sample.prompt", "logger.x"),
    *("logger.csv.folder", "optimizer", "optimizer.x", "optimizer.rules.a", "schedule"),
    *("optimizer.rules.a.schedule", "corpus", "corpus.path", "tokenizer", "tokenizer.x", "sweep"),
    *("sweep.trial", "teacher", "teacher.runs", "from", "name", "hydra", "extra", "trainer.x"),
    *("parametrisation", "data.block_size", "run_dir"),
]
leaves = st.sampled_from(TEXTS) | st.booleans() | st.integers(0, 3) | st.none()
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
        | st.builds(
            lambda target, more: {**more, "_target_": target},
            st.sampled_from(TARGETS),
            st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
        )
    ),
    max_leaves=12,
)


def with_a_class_that_is_ours(place: str, tree: Any) -> Any:
    """A tree below a part that is harmless, where Hydra comes to it."""
    if place == "model" and not (isinstance(tree, dict) and "_target_" in tree):
        return {"_target_": "torch.nn.Identity", "x": tree, "y": tree}
    return tree


AT = ["restore", "run", "from", "teacher", "resume"]
CASES = (st.sampled_from(PLACES), trees, st.sampled_from(AT))
IN_A_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(IN_A_FOLDER, max_examples=12)
@given(*CASES)
def test_no_tree_makes_anything_happen(run, here, place, tree, door):
    nothing_happens(run, here, place, tree, door)


@pytest.mark.slow
@settings(IN_A_FOLDER, max_examples=300)
@given(*CASES)
def test_no_tree_of_many_makes_anything_happen(run, here, place, tree, door):
    nothing_happens(run, here, place, tree, door)


def nothing_happens(run: RunDirectory, here: Path, place: str, tree: Any, door: str) -> None:
    """Open a copy of a run, by a door, that has a tree in its config."""
    folder = here / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run.path, folder)
    hostile = RunDirectory(folder)
    change(hostile, put(place, with_a_class_that_is_ours(place, tree)))
    before = set(sys.modules)
    with contextlib.suppress(LabError):
        if door == "restore":  # as generate, evaluate and export, and lmlab.open(…).model()
            restore(hostile, "last")
        elif door == "run":
            cut(hostile, 1)
            lmlab.train(run=folder)
        elif door == "from":
            lmlab.train("trainer.max_steps=3", **{"from": folder}, dry_run=True)
        elif door == "resume":
            cut(hostile, 1)
            lmlab.train(*FOX, "resume=auto", run_dir=folder)
        else:
            lmlab.train(*FOX, f"+teacher.runs=['{folder}']", "dry_run=true")
    assert not Path("exploded").exists()
    new = sys.modules.keys() - before
    assert not {"loud", "unittest.__main__", "this", "antigravity"} & new


# --- whom one trusts -------------------------------------------------------------------------


def test_a_refusal_names_the_key_the_class_and_what_allows_it(lab, run, monkeypatch):
    change(run, put("model", {"_target_": "loud.Net", "weight": 1}))
    status, out, err = lab(*generate(run.path))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: model._target_=loud.Net: checkpoint outputs/fox/")
    assert "LMLAB_TRUST=loud allows it" in err
    assert "loud" not in sys.modules

    monkeypatch.setenv("LMLAB_TRUST", "another, loud")
    _, _, err = lab(*generate(run.path))
    assert "allows it" not in err
    assert "loud" in sys.modules


NET = (
    "from torch import nn\n"
    "class Net(nn.Module):\n"
    "    def __init__(self, vocab_size: int, block_size: int, text: str = 'x'):\n"
    "        super().__init__()\n"
    "        self.table, self.text = nn.Embedding(vocab_size, vocab_size), text\n"
    "    def forward(self, idx):\n"
    "        return self.table(idx)\n"
)


def test_what_one_has_trained_with_is_remembered_and_nothing_else(lab, here, run):
    (here / "nets.py").write_text(NET)
    mine = ["model=bigram", "model._target_=nets.Net", "+model.text='\\${oc.env:HOME}'"]
    status, out, err = lab("train", *FOX, *mine, "name=nets")
    assert (status, err) == (0, "")
    file = trust.remembered_in()
    (line,) = [line for line in out.splitlines() if "trusted" in line]
    assert line.startswith("nets: trusted")
    assert str(file) in line
    assert file.read_text() == "nets\n"

    (path,) = Path("outputs/nets").iterdir()
    assert lab(*generate(path))[0] == 0
    assert restore(RunDirectory(path), "last").model.text == "${oc.env:HOME}"  # a text, to the end
    status, out, _ = lab("train", f"from={path}", "trainer.max_steps=3")
    assert (status, "trusted" in out) == (0, False)
    cut(RunDirectory(path), 1)
    assert lab("train", f"run={path}")[0] == 0

    change(RunDirectory(path), put("model", {"_target_": "loud.Net"}))
    for words in (generate(path), ["train", f"run={path}"]):
        status, _, err = lab(*words)
        assert (status, "LMLAB_TRUST=loud" in err) == (2, True)
    assert file.read_text() == "nets\n"


def test_of_a_package_that_is_trusted_what_it_only_imports_is_not(here, monkeypatch):
    (here / "nets.py").write_text(
        NET + "import torch\nfrom torch import fx\nfrom torch.nn import Linear\nAgain = Linear\n"
    )
    monkeypatch.setenv("LMLAB_TRUST", "nets")
    for name in ("nets.torch.fx.GraphModule", "nets.fx.GraphModule", "nets.Linear", "nets.Again"):
        model = {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": name}]}
        with pytest.raises(LabError, match=rf"model\._args_\.0\._target_={name}.*TRUST={name} "):
            trust.check_stored({"model": model}, "run=a")
    trust.check_stored({"model": {"_target_": "nets.Net"}}, "run=a")
    trust.remember({"model": {"_target_": "nets.Linear"}})  # of one's own it was taken all the same
    trust.check_stored({"model": {"_target_": "nets.Linear"}}, "run=a")
    assert trust.remembered_in().read_text() == "nets.Linear\n"


def test_what_is_typed_on_top_of_a_stored_config_is_ones_own_and_the_rest_is_not(lab, here, run):
    (here / "nets.py").write_text(NET)
    typed = [f"from={run.path}", "trainer.max_steps=3", "model._target_=nets.Net", "+model.text=a"]
    status, out, err = lab("train", *typed, "name=child")
    assert (status, err) == (0, "")
    assert "nets: trusted" in out

    change(run, put("callbacks.sample", {"_target_": "loud.Net"}))
    status, _, err = lab("train", *typed)
    assert (status, "callbacks.sample._target_=loud.Net" in err) == (2, True)
    assert lab("train", *typed, "~callbacks.sample", "name=without")[0] == 0
    assert "loud" not in sys.modules


def test_of_what_is_shared_one_class_is_remembered(lab, here):
    words = [*FOX, "+logger.x={_target_:lightning.pytorch.loggers.CSVLogger,save_dir:elsewhere}"]
    status, out, err = lab("train", *words, "name=csv")
    assert (status, err) == (0, "")
    assert "lightning.pytorch.loggers.CSVLogger: trusted" in out
    assert trust.remembered_in().read_text() == "lightning.pytorch.loggers.CSVLogger\n"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("logger.csv.folder", "elsewhere"),
        ("logger.x", {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "elsewhere"}),
        ("logger.x", {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "../elsewhere"}),
        ("logger.x", {"_target_": "lightning.pytorch.loggers.CSVLogger", "_args_": ["elsewhere"]}),
        ("logger.x", {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "sub_dir": "a"}),
        ("logger.x", {"_target_": "lmlab.display.trackers.MLflow", "tracking_uri": "http://a"}),
        *(
            ("logger.x", {"_target_": "lmlab.display.trackers.MLflow", "tracking_uri": uri})
            for uri in ("sqlite:////elsewhere/mlflow.db", "sqlite:///../elsewhere/mlflow.db")
        ),
        ("logger.x", {"_target_": "lmlab.display.trackers.WandB", "settings": {"base_url": "x"}}),
        (
            "callbacks.x",
            {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "elsewhere"},
        ),
        (
            "callbacks.x",
            {
                "_target_": "lightning.pytorch.callbacks.OnExceptionCheckpoint",
                "dirpath": "elsewhere",
            },
        ),
    ],
)
def test_a_stored_config_does_not_say_where_to_write(lab, run, key, value):
    change(run, put(key, value))
    cut(run, 1)
    status, _, err = lab("train", f"run={run.path}")
    assert (status, err.count("\n")) == (2, 1)
    assert "allows it" in err
    assert not Path("elsewhere").exists()


def test_where_a_strangers_run_was_kept_is_no_place_for_its_children(lab, run):
    elsewhere = Path("elsewhere").absolute()
    change(run, put("output_dir", str(elsewhere)))
    words = [f"from={run.path}", "trainer.max_steps=3"]
    assert lab("train", *words, "name=child")[0] == 0
    assert (len(list(Path("outputs/child").iterdir())), elsewhere.exists()) == (1, False)
    assert lab("train", *words, "output_dir=elsewhere")[0] == 0  # which is one's own word
    assert elsewhere.exists()


def test_what_a_sweep_names_is_neither_trusted_later_nor_needed(lab, here):
    pruning = "{_target_: lmlab.sweeps.search.pruning.Pruning, pruner: {_target_: optuna.Pruner}}"
    trust.remember({"sweep": yaml.safe_load(pruning)})
    assert not trust.remembered_in().exists()
    search = ["hydra/sweeper=optuna", "hydra/sweeper/pruner=median", "hydra.sweeper.n_trials=2"]
    status, out, err = lab("train", "-m", *FOX, *search, "seed=range(1,9)", "sweep.name=found")
    assert (status, err, "trusted" in out) == (0, "", False)
    path = next(Path("outputs/sweeps/found").glob("*/run.json")).parent
    (checkpoint, *_) = RunDirectory(path).checkpoints()
    assert torch.load(checkpoint, weights_only=True)["config"]["sweep"]["trial"] is not None
    for words in (generate(path), ["evaluate", f"run={path}"], ["train", f"run={path}"]):
        assert lab(*words)[::2] == (0, "")
    cut(RunDirectory(path), 1)
    assert lab("train", f"run={path}")[::2] == (0, "")
    assert lab("train", f"from={path}", "trainer.max_steps=3", "name=child")[::2] == (0, "")


def test_the_options_in_a_record_say_nothing_else_to_hydra(lab, run):
    Path("evil/model").mkdir(parents=True)
    Path("evil/model/bigram.yaml").write_text("_target_: loud.Net\n")
    ignored = {"hydra.searchpath": "evil", "model._target_": "loud.Net", "hydra/launcher": "joblib"}
    ignored |= {"optimizer": "a/../../evil"}
    refused = [{"+callbacks.x": "{_target_: loud.Net}"}, {"model": "bigram,gpt"}, {"seed": "3 "}]
    refused += [{"hydra.searchpath": "[evil]"}, {"trainer": ["cpu"]}, {"optimizer": "../../evil"}]
    record = json.loads((run.path / "run.json").read_text())

    def options(choices: dict[str, Any]) -> None:
        (run.path / "run.json").write_text(json.dumps({**record, "choices": choices}))

    for choices in refused:
        options(choices)
        status, _, err = lab("train", f"from={run.path}", "trainer.max_steps=3", "name=child")
        assert (status, err.count("\n")) == (2, 1)
    options(ignored)
    status, _, err = lab("train", f"from={run.path}", "trainer.max_steps=3", "name=child")
    assert (status, err) == (0, "")
    (child,) = Path("outputs/child").iterdir()
    assert RunDirectory(child).config["model"] == run.config["model"]
    assert "loud" not in sys.modules


def test_a_tokenizer_is_a_class_that_may_be_named(here, monkeypatch):
    state = {"kind": "mine", "class": "loud.Net"}
    for name in ("loud.Net", "unittest.__main__", "os.mkdir", "loud:Net", 3, None):
        with pytest.raises(LabError, match="nor of a package that you trust"):
            Tokenizer.from_json({**state, "class": name})
    assert not {"loud", "unittest.__main__"} & sys.modules.keys()
    monkeypatch.setenv("LMLAB_TRUST", "loud")
    with pytest.raises(LabError, match="not a lmlab"):
        Tokenizer.from_json(state)


def test_where_it_cannot_be_remembered_training_goes_on_and_says_what_to_set(lab, here):
    (here / "nets.py").write_text(NET)
    (here / "mine").write_text("a file")
    status, out, err = lab("train", *FOX, "model._target_=nets.Net", "name=nets")
    assert (status, err) == (0, "")
    assert "set LMLAB_TRUST=nets" in " ".join(out.split())


def test_what_is_typed_in_place_of_a_stored_class_leaves_that_alone(lab, run):
    change(run, put("model", {"_target_": "loud.Net"}))
    words = [f"from={run.path}", "model._target_=lmlab.models.bigram.Bigram", "name=child"]
    status, _, err = lab("train", *words, "trainer.max_steps=3")
    assert (status, err) == (0, "")
    assert "loud" not in sys.modules


def test_a_class_that_is_gone_is_missed_where_it_is_wanted(lab, run, monkeypatch):
    change(run, put("callbacks.mine", {"_target_": "gone.Callback"}))
    monkeypatch.setenv("LMLAB_TRUST", "gone")
    for words in (generate(run.path), ["evaluate", f"run={run.path}"]):
        assert lab(*words)[0] == 0
    status, _, err = lab("train", f"from={run.path}", "trainer.max_steps=3")
    assert status == 2
    assert err.startswith("error: callbacks.mine._target_='gone.Callback': cannot be imported")
