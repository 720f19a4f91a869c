"""The commands as a person types them: what bad input gets, and what the good one leaves."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bad_input import BAD
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from small import FOX, SMALL

from lmlab import cli
from lmlab.config import schema
from lmlab.config.check import check, check_plain
from lmlab.config.fingerprint import fingerprint
from lmlab.config.trust import nodes
from lmlab.config.words.hydra_inside import version_base
from lmlab.core.train import train
from lmlab.errors import LabError


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run that is done, for all who only look at it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    corpus = ["corpus=file", f"corpus.path={folder}/text.txt"]
    with initialize_config_dir(str(cli.conf_dir()), **version_base()):
        cfg = compose("train", [*SMALL, *corpus, "name=fox", f"run_dir={folder}/run"])
    return train(check(cfg, schema.Train)).path


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    BAD,
    ids=[
        " ".join([command, *words])[:60].encode("unicode_escape").decode()
        for command, words, _ in BAD
    ],
)
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(
    lab, text, trained, tmp_path, command, words, expected
):
    words = [word.replace("RUN", str(trained)) for word in words]
    if command == "train" and not any(word.startswith(("corpus", "run=")) for word in words):
        words += ["corpus=file", "corpus.path=text.txt"]
    before = everything_in(tmp_path, trained)
    status, out, err = lab(command, *words)
    assert status == 2, out + err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert err.rstrip("\n").isprintable()
    for part in expected:
        assert part in err
    assert everything_in(tmp_path, trained) == before


def everything_in(*folders: Path) -> dict[Path, bytes | None]:
    return {
        path: path.read_bytes() if path.is_file() else None
        for folder in folders
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"caf\xe9 au lait" * 50, "not UTF-8: invalid continuation byte at byte 3"),
        (b"a", "at least 9 tokens"),
        ("in UTF-16".encode("utf-16") * 99, "not UTF-8"),
        (b"text\n" * 30 + b"\0" * 30, "holds a NUL at byte 150"),
        (b"abcdefgh" * 10, "val split of at least 9 tokens, and this one has 8"),
    ],
    ids=["empty", "latin-1", "one character", "utf-16", "NUL", "short val"],
)
def test_train_names_what_is_wrong_with_a_text(lab, tmp_path, content, expected):
    (tmp_path / "bad.txt").write_bytes(content)
    status, _, err = lab("train", *SMALL, "corpus=file", "corpus.path=bad.txt")
    assert status == 2
    assert expected in err
    assert err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


@pytest.fixture
def run(lab, text) -> Path:
    status, _, err = lab("train", *SMALL, "corpus=file", "corpus.path=text.txt", "name=fox")
    assert status == 0, err
    assert err == ""
    (path,) = Path("outputs/fox").iterdir()
    return path


def test_each_command_that_a_run_ends_with_works_from_where_one_stands(lab, tmp_path):
    Path("here/conf/model").mkdir(parents=True)
    Path("here/conf/model/own.yaml").write_text("_target_: lmlab.models.bigram.Bigram\n")
    Path("текст и слово.txt").write_text("съешь же ещё этих мягких французских булок\n" * 60)
    words = ["--config-dir", "here/conf", *SMALL, "model=own", "corpus=file", "name='a b'"]
    words += ["corpus.path='текст и слово.txt'"]
    status, out, err = lab("train", *words)
    assert (status, err) == (0, "")
    printed = re.findall(r"^(?:look|sample|evaluate|longer) +(.+)$", out, re.MULTILINE)
    assert len(printed) == 4
    for line in printed:
        program, script, *words = shlex.split(line)
        assert shutil.which(program)
        assert Path(script).is_file()
        if (name := Path(script).stem) != "board":
            assert lab(name, *words)[::2] == (0, "")


def test_evaluate_and_generate_need_only_the_run(lab, run):
    status, out, err = lab("evaluate", f"run={run}", "stride=1")
    assert (status, err) == (0, "")
    assert "val/loss_full" in out
    assert "windows of 8 every 1" in out
    words = [f"run={run}", 'prompt=the "fox"'.replace('"', ""), "max_new_tokens=20", "seed=3"]
    first = lab("generate", *words)
    assert first[0] == 0
    assert first[1].startswith("the fox")
    assert lab("generate", *words) == first
    several = lab("generate", *words, "samples=2")[1]
    assert first[1].strip() in several


def test_prompt_is_text_whatever_it_holds(lab, text, tmp_path):
    said = "\"quoted\" 'single' a,b=c {x} [y] (z) $HOME ${x} \\ back\\\\slash! #?\\"
    text.write_text(text.read_text() + said)
    lab("train", *SMALL, "corpus=file", "corpus.path=text.txt", "name=odd")
    (run,) = Path("outputs/odd").iterdir()
    status, out, err = lab("generate", f"run={run}", f"prompt={said}", "max_new_tokens=1")
    assert (status, err) == (0, "")
    # The model's block is 8 tokens, and it says so.
    assert said in out


def test_long_prompt_is_cropped_and_said_so(lab, run):
    _, out, _ = lab("generate", f"run={run}", "prompt=the lazy dog", "max_new_tokens=3")
    assert "the prompt is 12 tokens long, and the model sees the last 8" in out


def test_multirun_keeps_a_directory_for_each_job(lab, text, tmp_path):
    words = ["-m", *SMALL, "corpus=file", "corpus.path=text.txt", "model=bigram,head"]
    status, _, err = lab("train", *words)
    assert (status, err) == (0, "")
    records = sorted(Path("outputs/sweeps").glob("*/*/run.json"))
    assert len(records) == 2
    assert sum("model=head" in str(record) for record in records) == 1


def test_dry_run_says_what_would_happen_and_leaves_nothing(lab, text):
    words = [*SMALL, "corpus=file", "corpus.path=text.txt", "dry_run=true", "optimizer=adamw"]
    status, out, err = lab("train", *words, "data.batch_size=12")
    assert (status, err) == (0, "")
    for part in ("784 parameters", "96 tokens", "792 train and 88 val", "outputs/bigram/<time>"):
        assert part in out
    assert "epochs" not in out
    words += ["data.batch_size=97", "data.order=epochs"]  # and two steps
    assert "2.00 epochs of 97 windows" in lab("train", *words)[1]
    assert not Path("outputs").exists()


def test_traceback_is_shown_on_demand(tmp_path):
    code = "from lmlab.cli import train; train()"
    done = subprocess.run(
        [sys.executable, "-c", code, "data.batch_size=0"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HYDRA_FULL_ERROR": "1", "PATH": "/usr/bin"},
        timeout=60,
    )
    assert "Traceback" in done.stderr
    assert "LabError: data.batch_size=0" in done.stderr


def test_help_and_config_errors_do_not_import_torch(tmp_path):
    code = (
        "import sys\nfrom lmlab.cli import train\n"
        "try: train()\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules, 'lightning' in sys.modules, file=sys.stderr)"
    )
    for word in ("--help", "data.batch_size=0", "model=none"):
        done = subprocess.run(
            [sys.executable, "-c", code, word],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
        )
        assert done.stderr.endswith("False False\n")


def test_what_does_not_train_imports_neither_lightning_nor_torchs_compiler(trained, tmp_path):
    # In one process: torch takes seconds.
    code = (
        "import sys\nfrom lmlab.cli import evaluate, export, generate\nrun = sys.argv[1]\n"
        "sys.argv[1:] = [run, 'max_new_tokens=5', 'prompt=the']\ngenerate()\n"
        "sys.argv[1:] = [run, 'folder=exported']\nexport()\n"
        "sys.argv[1:] = [run, 'tasks=text']\nevaluate()\n"
        "heavy = {'lightning', 'torch._dynamo', 'pandas', 'altair', 'matplotlib', 'tensorboard'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, f"run={trained}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("the")
    assert (tmp_path / "exported/model.safetensors").is_file()


def test_docs_says_where_the_pages_are(lab):
    status, out, err = lab("main", "docs")
    assert (status, err) == (0, "")
    assert "/docs: the pages" in out or out.endswith("outputs/site/index.html\n")


SWEEP = [*SMALL, "corpus=file", "corpus.path=text.txt"]


def test_a_multirun_is_the_same_sweep_however_it_is_asked_for(lab, text):
    for words in (
        [SWEEP[0], "-m", *SWEEP[1:], "seed=1,2"],
        ["--multi", *SWEEP, "seed=1,2"],
        ["hydra.mode=MULTIRUN", *SWEEP, "seed=1,2"],
    ):
        assert lab("train", *words, "dry_run=true")[::2] == (0, ""), words
        (sweep,) = Path("outputs/sweeps").iterdir()
        assert sweep.name.startswith("seed-")


def test_jobs_of_a_sweep_may_be_told_directories_of_their_own(lab, text):
    words = ["-m", *SWEEP, "seed=1,2", "hydra.sweep.dir=kept"]
    assert lab("train", *words, "run_dir='mine/${seed}'")[::2] == (0, "")
    assert {path.parent.name for path in Path("mine").glob("*/run.json")} == {"1", "2"}
    assert Path("kept/multirun.yaml").is_file()
    assert not Path("outputs").exists()
    # One directory for jobs that differ: what is there is neither given back nor touched.
    before = everything_in(Path("mine"))
    status, out, _ = lab("train", *words, "optimizer.lr=0.2", "run_dir='mine/${seed}'")
    assert status == 2
    assert "run_dir=mine/1 holds another run" in out
    assert everything_in(Path("mine")) == before


def test_a_printed_command_can_be_typed_again(lab, text):
    status, out, _ = lab("train", *SWEEP, "run_dir='a b/{c},d'")
    assert status == 0
    printed = [line for line in out.splitlines() if "scripts/generate.py" in line]
    words = shlex.split(printed[0])[3:]
    assert words[0] == "run=a b/{c},d"
    assert lab("generate", words[0], "prompt=fox", "max_new_tokens=3")[::2] == (0, "")
    assert lab("train", words[0])[::2] == (0, "")


def test_a_warmup_longer_than_the_run_is_said_once(lab, text):
    words = [*SWEEP, "schedule=cosine", "schedule.warmup_steps=2", "trainer.max_steps=2"]
    for more in ([], ["dry_run=true"]):
        status, out, err = lab("train", *words, *more)
        assert (status, err) == (0, "")
        assert out.count("schedule.warmup_steps=2: the warm-up does not end within") == 1
    assert "warm-up" not in lab("train", *words, "schedule.warmup_steps=1", "dry_run=true")[1]


def checked(*words: str) -> dict:
    with initialize_config_dir(str(cli.conf_dir()), **version_base()):
        return check(compose("train", ["name=n", *words]), schema.Train).plain()


def test_a_whole_number_for_a_float_is_the_same_config():
    whole = checked("optimizer.lr=1", "optimizer.betas=[0,0]", "callbacks.sample.temperature=1")
    point = checked("optimizer.lr=1.0", "optimizer.betas=[0.0,0.0]")
    assert json.dumps(whole) == json.dumps(point)
    assert fingerprint(whole) == fingerprint(point)
    # Whole numbers that count something stay what they are, and so do keys that no schema knows.
    anything = {"_target_": "torch.nn.Identity"}
    own = {**anything, "size": 3, "inner": {**anything, "rate": 1}}
    mine = check(OmegaConf.create({**whole, "model": own}), schema.Train)
    assert json.dumps(mine.model) == json.dumps(own)
    numbers = [type(value) for _, value in mine.data if not isinstance(value, str)]
    assert numbers == [int, int, float, int]


def test_without_its_parts_a_config_is_checked_and_nothing_is_imported():
    plain = checked("optimizer=muon")
    for _, node in list(nodes(plain)):
        node["_target_"] = "nowhere.Part"
    assert check_plain(plain, schema.Train, parts=()).plain() == plain
    with pytest.raises(LabError, match=r"^corpus\._target_='nowhere\.Part': cannot be imported: "):
        check_plain(plain, schema.Train)


@pytest.mark.parametrize(
    "words",
    [
        "experiment=quickstart",
        "experiment=lecture/residual",
        "experiment=notebook",
        "experiment=nanogpt/cpu",
        "model=head optimizer=sgd",
        "model=gpt schedule=linear trainer=ddp",
    ],
)
def test_checking_changes_no_fingerprint(words):
    with initialize_config_dir(str(cli.conf_dir()), **version_base()):
        cfg = compose("train", ["name=n", *words.split()])
    assert fingerprint(check(cfg, schema.Train).plain()) == fingerprint(OmegaConf.to_container(cfg))


OWN = {  # the files of a --config-dir, and what is said of model=mine there
    "a bomb": (
        {
            "mine": "a0: &a0 [1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
        },
        "its aliases stand for more than 100,000 values",
    ),
    "within itself": ({"mine": "a: &x [*x]\n"}, "its aliases stand for more than 100,000 values"),
    "itself": ({"mine": "defaults: [mine]\n"}, "lead back to model/mine"),
    "each other": (
        {"mine": "defaults: [other]\n", "other": "defaults: [mine]\n"},
        "lead back to model/mine",
    ),
    "by its whole name": ({"mine": "defaults: [{/model: mine}]\n"}, "lead back to model/mine"),
    "by what was chosen": ({"mine": "defaults: [{/model: '${model}'}]\n"}, "lead back"),
    "by a way around": ({"mine": "defaults: [../model/mine]\n"}, "lead back to model/mine"),
    "an override of nothing": (
        {"mine": "defaults: [{override /nothing: x}]\n"},
        "'nothing@model.nothing'",
    ),
    "very deep": ({"mine": f"a: {'[' * 500}{']' * 500}\n"}, "nested too deep"),
}


@pytest.mark.parametrize(("files", "expected"), OWN.values(), ids=OWN)
def test_a_config_that_has_no_end_is_refused(lab, tmp_path, files, expected):
    (tmp_path / "own/model").mkdir(parents=True)
    for name, content in files.items():
        (tmp_path / f"own/model/{name}.yaml").write_text(content)
    status, out, err = lab("train", "--config-dir", "own", "model=mine", "dry_run=true")
    assert (status, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1


def test_a_dry_run_of_a_sweep_says_what_is_planned(lab, text):
    status, out, err = lab("train", "-m", *SWEEP, "seed=1,2", "dry_run=true")
    assert (status, err) == (0, "")
    assert "2/2 planned" in out
    assert "done" not in out


def test_an_application_of_hydras_may_call_a_command(lab, text):
    with initialize_config_dir(str(cli.conf_dir()), **version_base()):
        before = GlobalHydra.instance().hydra
        assert lab("train", *SWEEP, "dry_run=true")[::2] == (0, "")
        assert lab("train", "--help")[::2] == (0, "")
        assert GlobalHydra.instance().hydra is before


def test_one_command_has_them_all(lab, text):
    status, out, err = lab("main", "train", *FOX)
    assert (status, err) == (0, "")
    (run,) = Path("outputs/fox").iterdir()
    shown = lab("main", "show", "last")
    assert shown[0] == 0
    assert shown[2] == ""
    assert out.endswith(shown[1])  # what the run said at its end
    short = lab("main", "generate", "last", "max_new_tokens=5")
    assert short[:2] == lab("main", "generate", f"run={run}", "max_new_tokens=5")[:2]
    assert short[2] == f"run=last is {run}\n"
    assert lab("main", "evaluate", "outputs/fox")[0] == 0


def test_one_command_says_what_it_knows(lab):
    status, out, err = lab("main")
    assert (status, err) == (0, "")
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)
    assert lab("main", "trian") == (
        2,
        "",
        "error: lmlab trian: no such command; did you mean train?\n",
    )
    assert lab("main", "show") == (
        2,
        "",
        "error: lmlab show takes a run: its directory, a folder of runs, or last\n",
    )


def test_a_whole_number_may_be_written_as_a_float(lab, text):
    assert lab("train", *FOX, "trainer.max_steps=2e0", "model=head", "model.n_embd=8.0")[0] == 0
    (run,) = Path("outputs/fox").iterdir()
    config = yaml.safe_load((run / "config.yaml").read_text())
    steps, n_embd = config["trainer"]["max_steps"], config["model"]["n_embd"]
    assert (steps, n_embd) == (2, 8)
    assert isinstance(steps, int)
    assert isinstance(n_embd, int)


def test_one_command_completes_what_is_typed_for_each(lab, monkeypatch):
    line = "lmlab train model=he"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    status, out, _ = lab("main", "-sc", "query=bash")
    assert (status, out.split()) == (0, ["model=head"])
