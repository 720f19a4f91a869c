"""Models that transformers has not leave with a file of their own: equal logits, equal texts."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.append(str(Path(sys.prefix) / "transformers"))  # see requirements-transformers.lock
if not os.environ.get("CI"):
    pytest.importorskip("transformers")
import transformers

from lmlab.config import build
from lmlab.config.stored import conf_dir
from lmlab.errors import LabError
from lmlab.exchange import own_file
from lmlab.models.modern import Modern
from lmlab.models.sampling import generate
from lmlab.runs.directory import RunDirectory
from lmlab.training.beginning.restored import restore

transformers.utils.logging.disable_progress_bar()

SIZES = ["model.n_layer=2", "model.n_head=4", "model.n_embd=32"]
VOCAB_SIZE, BLOCK_SIZE = 13, 8
PARTS = [
    *("model.u_net=true", "model.embedding_shortcut=true", "model.value_embeddings=true"),
    *("model.head_gate=true", "model.n_kv_head=2", "model.tied=true", "model.temperature=1.7"),
    *("model.counts_order=3", "model.counts_folds=2", "model.dropout=0.2", "model.n_layer=3"),
]
MODELS = {
    "quickstart": ["experiment=quickstart", *SIZES],
    "modern": ["model=modern", *SIZES],
    "many parts": ["model=modern", *SIZES, *PARTS],
    "endless": ["model=modern", *SIZES, "model.window=3"],
    "gpt": ["model=gpt", *SIZES],
    "ensemble": ["model=ensemble", *(w.replace("model.", "model.members.network.") for w in SIZES)],
    **{
        option: [f"model={option}"]
        for option in ("bigram", "ngram", "bag_of_words", "head", "multi_head", "feed_forward")
    },
    **{option: [f"model={option}"] for option in ("residual", "layer_norm")},
}


@pytest.fixture(scope="module", autouse=True)
def modules_cache(tmp_path_factory):
    """Where transformers copies the files that it is to run."""
    from transformers import dynamic_module_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        cache = tmp_path_factory.mktemp("modules")
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(cache))
        yield


def made(node: dict[str, Any]) -> Any:
    """A model of a node, that has seen a text, and all of whose weights matter."""
    torch.manual_seed(1)
    model = build.model(node, VOCAB_SIZE, BLOCK_SIZE)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.15)
    text = torch.randint(VOCAB_SIZE, (300,))
    for look in ("fit", "prepare"):
        getattr(model, look, lambda tokens: None)(text)
    restored = build.model(node, VOCAB_SIZE, BLOCK_SIZE)  # without what no checkpoint keeps
    restored.load_state_dict(model.state_dict())
    return restored.eval()


def left(model: Any, node: dict[str, Any], folder: Path) -> Any:
    """The same as transformers loads it from a folder."""
    config, tensors, source = own_file.exported(model, node, VOCAB_SIZE, BLOCK_SIZE)
    folder.mkdir(exist_ok=True)
    nobody = {"bos_token_id": None, "eos_token_id": None}
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": VOCAB_SIZE, **nobody}))
    (folder / "modeling_lmlab.py").write_text(source)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return loaded(folder)


def loaded(folder: Path) -> Any:
    load = transformers.AutoModelForCausalLM.from_pretrained
    return load(folder, trust_remote_code=True, dtype=torch.float32)


def check_equal(mine: Any, theirs: Any) -> None:
    """Equal logits, and equal texts with and without what transformers calls a cache."""
    idx = torch.randint(VOCAB_SIZE, (3, BLOCK_SIZE), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert not theirs.training
        assert (mine(idx) - theirs(idx).logits).abs().max() < 1e-5
        assert mine(idx).std() > 0.01
        out = theirs(idx, labels=idx, return_dict=False)
        expected = torch.nn.functional.cross_entropy(
            mine(idx)[:, :-1].flatten(0, 1), idx[:, 1:].flatten()
        )
        assert abs(out[0] - expected) < 1e-5
    prompt, n = idx[:1, :3], 2 * BLOCK_SIZE  # beyond what it reads at once
    tokens = [int(token) for token in generate(mine, prompt, n, temperature=0)]
    for use_cache in (True, False):
        text = theirs.generate(prompt, max_new_tokens=n, do_sample=False, use_cache=use_cache)
        assert text[0, 3:].tolist() == tokens


def imports(source: str) -> set[str]:
    """The packages that a file imports, anywhere in it."""
    packages = set()
    for stmt in ast.walk(ast.parse(source)):
        if isinstance(stmt, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in stmt.names}
        elif isinstance(stmt, ast.ImportFrom):
            packages.add((stmt.module or ".").partition(".")[0])
    return packages


@pytest.mark.parametrize(
    "name", ["quickstart", "many parts", "endless", "ngram", "ensemble", "layer_norm"]
)
def test_a_model_is_the_same_there(composed, tmp_path, name):
    node = composed(*MODELS[name])["model"]
    model = made(node)
    if name == "quickstart":
        model.end_of_text = 3  # as data.order=documents sets it
    theirs = left(model, node, tmp_path / "out")
    check_equal(model, theirs)
    theirs.save_pretrained(tmp_path / "again")
    check_equal(model, loaded(tmp_path / "again"))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_and_every_key_is_the_same_there(composed, tmp_path, name):
    from test_every_key import OF_MODERN

    config = composed(*MODELS[name])
    for i, (word, _) in enumerate(OF_MODERN if name == "modern" else [("seed=1", None)]):
        changed = OmegaConf.merge(config, OmegaConf.from_dotlist([word]))
        node = OmegaConf.to_container(changed)["model"]
        model = made(node)
        theirs = left(model, node, tmp_path / str(i))
        check_equal(model, theirs)
        idx = torch.randint(VOCAB_SIZE, (3, BLOCK_SIZE))
        in_half, its = model.to(torch.bfloat16), theirs.to(torch.bfloat16)
        with torch.no_grad():
            assert torch.equal(in_half(idx).float(), its(idx).logits.float()), word


def test_the_file_of_every_option_needs_torch_and_transformers_alone(composed):
    for path in (conf_dir() / "model").glob("*.yaml"):
        source = own_file.source_of(composed(f"model={path.stem}")["model"])
        # numpy is what torch and transformers themselves need.
        assert imports(source) <= {"torch", "transformers", "numpy", *sys.stdlib_module_names}
        assert "pydantic" not in source


def test_one_may_go_on_training_there(composed, tmp_path):
    node = composed(*MODELS["many parts"])["model"]
    theirs = left(made(node), node, tmp_path / "out").train()
    theirs(
        torch.zeros(2, 8, dtype=torch.int64), labels=torch.ones(2, 8, dtype=torch.int64)
    ).loss.backward()
    assert all(parameter.grad is not None for parameter in theirs.parameters())
    padded = torch.tensor([[0, 1, 1]])
    with pytest.raises(ValueError, match="no padding before a text"):
        theirs(padded, attention_mask=padded)
    fresh = transformers.AutoModelForCausalLM.from_config(theirs.config, trust_remote_code=True)
    assert type(fresh.model).__name__ == Modern.__name__
    assert fresh.model.token_embedding.weight.std() < 0.03  # as the lab begins


OWN = """
import torch
from torch import nn
from typing import Annotated
from pydantic import Field
from lmlab.models.gpt import CausalSelfAttention

class Mine(nn.Module):
    def __init__(self, vocab_size: int, block_size: int, n_embd: Annotated[int, Field(ge=1)] = 16):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.attention = CausalSelfAttention(n_embd, 2, 0.0)
        self.register_buffer("scale", torch.arange(n_embd) / n_embd, persistent=False)
        self.read_out = nn.Linear(n_embd, vocab_size)

    def forward(self, idx):
        return self.read_out(self.attention(self.embedding(idx)) * self.scale)
"""


def test_ones_own_model_leaves_too_or_it_is_said_why_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_that_leaves.py").write_text(OWN)
    node = {"_target_": "mine_that_leaves.Mine", "n_embd": 8}
    model = made(node)
    check_equal(model, left(model, node, tmp_path / "out"))
    changes = (
        # A package that nothing of the model's mentions stays behind.
        (("import torch\n", "import torch\nimport omegaconf\n"), None),
        (("import torch\n", "import torch\nfrom omegaconf import MISSING\n"), "package omegaconf"),
        (("return", "import omegaconf\n        return"), "Mine imports omegaconf while it runs"),
        (("return", "from lmlab import api\n        return"), "Mine imports lmlab while it runs"),
        (("Attention\n\n", "Attention as MISSING\n\n"), "Attention under the name MISSING"),
        (
            ("from lmlab.models.gpt import CausalSelfAttention", "import lmlab.bounds as MISSING"),
            "whole",
        ),
        (
            ("class Mine", "class Past:\n    MISSING = 1\n\nMISSING = Past\n\nclass Mine"),
            "are called Past",
        ),
        (("self.scale)\n", "self.scale)\n\nMine.n_head = 2\n"), "does something to Mine"),
    )
    for i, (change, told) in enumerate(changes):
        text = OWN.replace(*change)
        if "MISSING" in text:
            text = text.replace("super()", "self.missing = MISSING\n        super()")
        (tmp_path / f"mine_{i}.py").write_text(text)
        node = {"_target_": f"mine_{i}.Mine"}
        if told is None:
            assert "omegaconf" not in own_file.source_of(node)
            continue
        with pytest.raises(LabError, match="cannot leave with a file of its own") as refusal:
            own_file.source_of(node)
        assert told in str(refusal.value)


LOADS = """
import sys
sys.path[:0] = sys.argv[2:]
import importlib.util
spec = importlib.util.find_spec("lmlab")
assert spec is None or spec.origin is None  # a folder of configs
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
assert not {"lmlab", "pydantic", "hydra", "lightning"} & set(sys.modules)
prompt = tokenizer("ROM", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=20, do_sample=False)[0]), end="")
"""


@pytest.mark.slow
def test_a_process_without_the_lab_writes_the_same_text(lab, experiment, tmp_path):
    run: RunDirectory = experiment(
        *MODELS["quickstart"], "trainer.max_steps=8", "data.block_size=8"
    )
    status, said, err = lab("export", f"run={run.path}", "folder=out")
    assert (status, err) == (0, "")
    assert "model.bigram_embedding, model.value_residual" in said
    assert "load it with trust_remote_code=True" in said
    paths = [str(Path(torch.__file__).parents[1]), str(Path(transformers.__file__).parents[1])]
    where = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    there = subprocess.run(
        [sys.executable, "-S", "-c", LOADS, str(tmp_path / "out"), *paths],
        env={**os.environ, **where},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert there.returncode == 0, there.stderr
    mine = restore(run, "last")
    prompt = torch.tensor([mine.tokenizer.encode("ROM").tolist()])
    tokens = [int(token) for token in generate(mine.model, prompt, 20, temperature=0)]
    assert there.stdout == "ROM" + mine.tokenizer.decode(tokens)
    assert "Do you wish to run" not in there.stderr
