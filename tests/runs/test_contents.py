"""Checkpoints of somebody else's: whatever they hold, it is used, or refused in one line."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from comparing import checkpoint, same, weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import SMALL, cut, train
from torch import Tensor

import lmlab
from lmlab.config import build
from lmlab.errors import LabError
from lmlab.runs.checkpoint import read_checkpoint
from lmlab.runs.directory import RunDirectory
from lmlab.training.beginning.restored import restore

GPT = ["model=gpt", "model.n_embd=8", "model.n_layer=1", "model.n_head=2"]
NORM = "model.final_norm.weight"
STOP = "lightning.pytorch.callbacks.EarlyStopping"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of two steps with an average of its weights and somebody's callback."""
    folder = tmp_path_factory.mktemp("whole")
    text = folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    words = [*SMALL, *GPT, "corpus=file", f"corpus.path={text}", "data.batch_size=2"]
    words += ["callbacks=ema", f"+callbacks.stop={{_target_:{STOP},monitor:val/loss}}"]
    lmlab.train(*words, "eval.every=1", f"run_dir={folder / 'run'}")
    return folder / "run"


@pytest.fixture
def run(whole, tmp_path, monkeypatch) -> RunDirectory:
    """A copy that ended after its first step, of which alone there is a checkpoint."""
    monkeypatch.chdir(tmp_path)
    return copied(whole, tmp_path / "run")


def copied(whole: Path, path: Path) -> RunDirectory:
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole, path)
    run = RunDirectory(path)
    cut(run, 1)
    run.best.unlink()
    return run


def change(run: RunDirectory, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = run.step_checkpoint(1)
    contents = torch.load(path, weights_only=True)
    edit(contents)
    torch.save(contents, path)


def put(*at: Any) -> Callable[[dict[str, Any]], None]:
    """put("a", "b", 3): contents["a"]["b"] = 3."""
    *path, last, value = at

    def edit(contents: dict[str, Any]) -> None:
        node: Any = contents
        for key in path:
            node = node[key]
        node[last] = value

    return edit


def circle(contents: dict[str, Any]) -> None:
    contents["callbacks"]["Recorder"]["metrics"] = contents


FIRST = ("optimizer_states", 0, "state", 0)
EDITS = {
    "optimizer_states": put("optimizer_states", []),
    "optimizer_states a text": put("optimizer_states", "x"),
    "state a list": put("optimizer_states", 0, "state", [1]),
    "group a number": put("optimizer_states", 0, "param_groups", 0, 3),
    "betas": put("optimizer_states", 0, "param_groups", 0, "betas", "x"),
    "capturable": put("optimizer_states", 0, "param_groups", 0, "capturable", True),
    "gathered of another shape": put(*FIRST, "exp_avg", torch.zeros(3)),
    "gathered too little": put(*FIRST, {"step": torch.tensor(1.0)}),
    "gathered complex": put(*FIRST, "exp_avg", torch.zeros(28, 8, dtype=torch.complex64)),
    "gathered without memory": put(*FIRST, "exp_avg", torch.zeros(1).expand(28, 8)),
    "step a vector": put(*FIRST, "step", torch.zeros(3)),
    "callbacks": put("callbacks", [1]),
    "Recorder": put("callbacks", "Recorder", float("nan")),
    "best": put("callbacks", "Checkpoints", "best", {"val/loss": "low"}),
    "circle": circle,
    "global_step a text": put("global_step", "x"),
    "global_step negative": put("global_step", -1),
    "global_step too large": put("global_step", 10**30),
    "global_step of another": put("global_step", 0),
    "version a number": put("pytorch-lightning_version", 3),
    "version a word": put("pytorch-lightning_version", "new"),
    "version before": put("pytorch-lightning_version", "0.8.1"),
    "random": put("random", [{"cpu": torch.zeros(3)}]),
    "stream": put("TextDataModule", "generator", torch.zeros(5056, dtype=torch.int64)),
    "stream of another order": put("TextDataModule", {"step": 1, "windows": 3}),
    "stream of fewer than none": put("TextDataModule", {"step": 1, "windows": -1}),
    "stream of none": put("TextDataModule", {"step": 1}),
    "ema": put("ema", {"step": 1, "weights": {}}),
    "ema of another shape": put("ema", "weights", "final_norm.weight", torch.zeros(3)),
    "since_log": put("since_log", ["x"]),
    "names": lambda contents: contents["state_dict"].update({3: torch.zeros(3)}),
    "a weight more": put("state_dict", "model.more", torch.zeros(3)),
    "sparse": put("state_dict", NORM, torch.ones(8).to_sparse()),
    "complex": put("state_dict", NORM, torch.ones(8, dtype=torch.complex64)),
    "NaN": put("state_dict", NORM, torch.full((8,), torch.nan)),
    "whole": put("state_dict", NORM, torch.ones(8, dtype=torch.int64)),
    "meta": put("state_dict", NORM, torch.ones(8, device="meta")),
    "huge": put("state_dict", NORM, torch.ones(1).expand(10**13)),
    "deep": lambda contents: contents.update(deep=deep(200)),
    "stop": put("callbacks", next(iter([STOP.rpartition(".")[2]])), {"wait_count": "x"}),
}


def deep(n: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(n):
        nested = [nested]
    return nested


def refused(do: Callable[[], Any]) -> str | None:
    """The one line that says why; None if it was done. Anything else is raised."""
    said = None
    try:
        do()
    except LabError as error:
        said = str(error)
    assert said is None or ("\n" not in said and len(said) < 1500)
    return said


@pytest.mark.parametrize("name", EDITS)
def test_training_does_not_go_on_with_parts_of_other_types(run, name):
    if name == "stop":
        states = read_checkpoint(run.step_checkpoint(1))["callbacks"]
        (key,) = (key for key in states if key.startswith("EarlyStopping"))
        change(run, put("callbacks", key, "wait_count", "x"))
    else:
        change(run, EDITS[name])
    before = run.record
    assert refused(lambda: train({**run.config, "run": str(run.path)}))
    assert {**run.record, "code": {}} == {**before, "code": {}}  # it was not begun
    longer = {**run.config["trainer"], "max_steps": 3}
    branch = {**run.config, "from": str(run.path), "run_dir": "branch", "trainer": longer}
    said = refused(lambda: train(branch))
    assert (said is None) == Path("branch").exists()


@pytest.mark.parametrize("name", ["sparse", "complex", "NaN", "whole", "huge", "names", "ema"])
def test_weights_of_other_kinds_are_used_for_nothing(run, name):
    change(run, EDITS[name])
    opened, which = lmlab.open(run.path), "ema" if name == "ema" else "last"
    assert refused(lambda: opened.generate(max_new_tokens=2, checkpoint=which))
    assert refused(lambda: opened.generate(max_new_tokens=2, temperature=0, checkpoint=which))
    assert refused(lambda: opened.evaluate(which))


def test_logits_that_are_no_numbers_are_said(run):
    change(run, lambda contents: contents["state_dict"][NORM].fill_(3e38))
    for temperature in (0.0, 1.0):
        said = refused(lambda t=temperature: lmlab.open(run.path).generate(temperature=t))
        assert said == "the model's logits are NaN or infinite: there is nothing to draw from"


@pytest.mark.parametrize("sizes", [{"n_layer": 10**6}, {"n_embd": 10**9}])
def test_sizes_are_compared_with_the_weights_before_a_model_is_made(run, sizes):
    def edit(contents: dict[str, Any]) -> None:
        contents["config"]["model"] |= sizes
        (run.path / "config.yaml").write_text(yaml.safe_dump(contents["config"]))

    change(run, edit)
    opened = lmlab.open(run.path)
    assert "does not fit the model in its own config" in refused(lambda: opened.generate())


def test_a_million_layers_are_not_made(run, monkeypatch):
    monkeypatch.setattr(build, "MOST_PARTS", 2000)  # that many take a moment
    config = {**run.config, "model": {**run.config["model"], "n_layer": 10**6}}
    with pytest.raises(LabError, match="modules and weights; give it fewer layers"):
        build.model(config["model"], 28, config["data"]["block_size"], most=build.MOST_PARTS)


@pytest.mark.parametrize("n_bytes", [1 << 42, 1 << 33])
def test_a_file_with_a_hole_is_refused_at_once(run, n_bytes):
    with run.step_checkpoint(1).open("r+b") as file:
        file.truncate(n_bytes)
    with pytest.raises(LabError, match=r"of memory|is damaged"):
        read_checkpoint(run.step_checkpoint(1))


@pytest.mark.parametrize("name", ["step-1x.ckpt", "step-٣.ckpt", "step-.ckpt", "step-1.ckpt"])
def test_a_file_that_no_step_is_called_by_is_no_checkpoint(run, name):
    run.step_checkpoint(1).rename(run.step_checkpoint(1).with_name(name))
    assert run.checkpoints() == []
    with pytest.raises(LabError, match="no such checkpoint"):
        lmlab.train(**{"from": str(run.path)})


# --- any value anywhere -----------------------------------------------------------------------


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    children = node.items() if isinstance(node, dict) else ()
    children = enumerate(node) if isinstance(node, list) else children
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def other_values(before: Any) -> list[Any]:
    t = before if isinstance(before, Tensor) else torch.ones(2, 3)
    numbers: list[Any] = [None, True, -1, 0, 3, 10**6, 10**30, 1.5, float("nan"), float("inf")]
    texts: list[Any] = ["", "x", "\ud800", "a\0b", "x" * 5000]
    nested: list[Any] = [[], [1], {}, {"a": 1}, {1: 2}, deep(60), (1, 2), {"_target_": [1]}]
    tensors = [t.to(torch.complex64), t.double() * torch.nan, t.bool(), torch.zeros(0), t[None]]
    tensors += [torch.ones(1).expand(10**12), torch.ones(t.shape, device="meta"), torch.ones(())]
    return [*numbers, *texts, *nested, *tensors, torch.eye(2).to_sparse(), str(before)[:99]]


def mutate(contents: dict[str, Any], source: random.Random) -> None:
    """Put another value in a random place, or take it out."""
    top = source.choice([key for key in contents if key != "loops"])
    at = source.choice([(top,), *((top, *path) for path in places(contents[top]))])
    node: Any = contents
    for key in at[:-1]:
        node = node[key]
    if source.random() < 0.1:
        del node[at[-1]]
    else:
        node[at[-1]] = source.choice(other_values(node[at[-1]]))


def use_after_mutation(whole: Path, folder: Path, seed: int, trains: bool) -> None:
    source = random.Random(seed)
    run = copied(whole, folder / "run")
    change(run, lambda contents: mutate(contents, source))
    opened = lmlab.open(run.path)
    refused(lambda: opened.generate(max_new_tokens=2))
    if trains:
        refused(lambda: opened.evaluate())
        shutil.rmtree(folder / "branch", ignore_errors=True)
        branch = {"from": str(run.path), "run_dir": str(folder / "branch")}
        refused(lambda: lmlab.train("trainer.max_steps=3", **branch))
        refused(lambda: lmlab.train(run=str(run.path)))


@pytest.mark.parametrize("seed", [1054506])
def test_values_that_once_were_used_are_refused(whole, tmp_path, seed):
    use_after_mutation(whole, tmp_path, seed, trains=True)


@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_any_other_value_anywhere_is_used_or_refused(whole, tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("any")
    use_after_mutation(whole, folder, seed, trains=False)
    shutil.rmtree(folder)


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_any_other_value_anywhere_is_trained_from_or_refused(whole, tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("any")
    use_after_mutation(whole, folder, seed, trains=True)
    shutil.rmtree(folder)


# --- float64 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [[*GPT, "callbacks=ema"], ["model=ngram"]], ids=["gpt", "ngram"])
def test_float64_is_evaluated_and_sampled_in_float64(experiment, model):
    run = experiment(*model, "trainer.precision=64-true")
    metrics = run.record["metrics"]
    opened = lmlab.open(run.path)
    assert opened.evaluate()["val/loss_full"] == metrics["val/loss_full"]
    trained = restore(run, "last")
    for name, value in trained.model.state_dict().items():
        assert same(value, weights(run)[f"model.{name}"])
    if "val/loss_full_ema" in metrics:
        assert opened.evaluate("ema")["val/loss_full"] == metrics["val/loss_full_ema"]
        assert {p.dtype for p in opened.model("ema").parameters()} == {torch.float64}
    assert len(opened.generate(max_new_tokens=8)) >= 8


def test_float64_that_goes_on_elsewhere_equals_one_that_was_as_long(experiment, tmp_path):
    words = [*GPT, "callbacks=ema", "trainer.precision=64-true", "schedule=constant"]
    longer = experiment(*words)
    part = experiment(*words, "trainer.max_steps=12")
    branch = train({**longer.config, "from": str(part.path), "run_dir": str(tmp_path / "branch")})
    for key in ("state_dict", "optimizer_states", "ema"):
        assert same(checkpoint(longer)[key], checkpoint(branch)[key]), key
    cut(longer, 12)
    train({**longer.config, "run": str(longer.path)})
    assert same(checkpoint(longer)["state_dict"], checkpoint(branch)["state_dict"])
