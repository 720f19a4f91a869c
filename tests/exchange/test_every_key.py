"""Of every key of a model that can be written for transformers: equal logits, or a refusal."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.append(str(Path(sys.prefix) / "transformers"))  # see requirements-transformers.lock
if not os.environ.get("CI"):
    pytest.importorskip("transformers")
import transformers
from omegaconf import OmegaConf
from safetensors.torch import save_file

from lmlab.config import build
from lmlab.config.stored import conf_dir
from lmlab.errors import LabError
from lmlab.exchange import gpt2, llama
from lmlab.models.gpt import GPT

transformers.utils.logging.disable_progress_bar()

SIZES = ["model.n_layer=2", "model.n_head=4", "model.n_embd=32", "data.block_size=8"]
LLAMA = [
    "model.norm._target_=lmlab.models.parts.RMSNorm",
    "model.feed_forward._target_=lmlab.models.parts.SwiGLU",
    "model.qk_norm=null",
    "model.soft_cap=null",
    "model.projection_scale=1",
]
QWEN = [
    *LLAMA[:2],
    *LLAMA[3:],
    "model.qk_norm._target_=lmlab.models.parts.RMSNorm",
]
# Other values of each key, and what a refusal names (None: transformers has it).
OF_GPT: list[tuple[str, str | None]] = [
    ("model.n_layer=3", None),
    ("model.n_head=2", None),
    ("model.n_embd=16", None),
    ("model.dropout=0.25", None),
    ("model.drop_path=0.25", None),
    ("model.bias=true", None),
    ("model.bias=false", None),
    ("model.tied=true", None),
    ("model.tied=false", None),
    ("model.gelu=none", None),
    ("model.gelu=tanh", None),
]
OF_MODERN: list[tuple[str, str | None]] = [
    ("model.n_layer=3", None),
    ("model.n_head=2", None),
    ("model.n_embd=16", None),
    ("model.dropout=0.25", None),
    ("model.drop_path=0.25", None),
    ("model.attention_dropout=0.5", None),
    ("model.learned_positions=true", "learned positions"),
    ("model.rope_base=100", None),
    ("model.rope_base=null", "model.rope_base"),
    ("model.rope_fraction=0.5", "model.rope_fraction"),
    ("model.norm._target_=lmlab.models.parts.LayerNorm", "LayerNorm (model.norm"),
    ("model.norm.gain=false", None),
    ("model.qk_norm={_target_: lmlab.models.parts.RMSNorm, _partial_: true, gain: true}", None),
    ("model.qk_norm={_target_: lmlab.models.parts.RMSNorm, _partial_: true, gain: false}", None),
    ("model.qk_norm={_target_: lmlab.models.parts.LayerNorm, _partial_: true}", "LayerNorm (model"),
    ("model.qk_norm={_target_: torch.nn.Identity, _partial_: true}", "Identity (model.norm"),
    ("model.norm={_target_: torch.nn.Identity, _partial_: true}", "Identity (model.norm"),
    ("model.feed_forward._target_=lmlab.models.parts.GELU", "GELU (model.feed_forward"),
    ("model.feed_forward._target_=lmlab.models.parts.ReLUSquared", "ReLUSquared (model"),
    ("model.feed_forward.width=2.5", None),
    ("model.n_kv_head=2", None),
    ("model.n_kv_head=1", None),
    ("model.window=4", "model.window"),
    ("model.window=[null,4]", "model.window"),
    ("model.head_gate=true", "model.head_gate"),
    ("model.value_residual=true", "model.value_residual"),
    ("model.embedding_shortcut=true", "model.embedding_shortcut"),
    ("model.short_conv=4", "model.short_conv"),
    ("model.u_net=true", "model.u_net"),
    ("model.value_embeddings=true", "model.value_embeddings"),
    ("model.bigram_embedding=all", "model.bigram_embedding"),
    ("model.trigram_embedding=50", "model.trigram_embedding"),
    ("model.bigram_logits=40", "model.bigram_logits"),
    ("model.tied=true", None),
    ("model.soft_cap=15", "model.soft_cap"),
    ("model.temperature=1.7", None),
    ("model.temperature=0.4", None),
    ("model.projection_scale=0.5", None),
    ("model.counts_order=2", "model.counts_order"),
    ("model.counts_folds=3", None),
]


def made(config: Any, *words: str) -> Any:
    """A model of a config with these words, all of whose weights matter."""
    changed = OmegaConf.create(config)
    for word in words:
        key, _, value = word.partition("=")
        OmegaConf.update(changed, key, yaml.safe_load(value), merge=True, force_add=True)
    config = OmegaConf.to_container(changed)
    torch.manual_seed(1)
    model = build.model(config["model"], 29, config["data"]["block_size"])
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.15)
    return model.eval()


def theirs(model: Any, folder: Path) -> Any:
    """The same as transformers loads it from a folder."""
    if isinstance(model, GPT):
        config, tensors = gpt2.exported(model)
    else:
        config, tensors = llama.exported(model)
    about = {**config, "vocab_size": 29, "bos_token_id": None, "eos_token_id": None}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(about))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


CASES = {
    "gpt": (["model=gpt"], OF_GPT),
    "gpt2": (["model=gpt2"], OF_GPT),
    "llama": (["model=modern", *LLAMA], OF_MODERN),
    "qwen": (["model=modern", *QWEN], OF_MODERN),
}
# How far apart logits of a standard deviation of one may be.
PRECISIONS = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 0.02, torch.bfloat16: 0.15}


@pytest.mark.parametrize("name", CASES)
def test_each_key_makes_the_same_logits_in_every_precision_or_is_refused(composed, tmp_path, name):
    words, cases = CASES[name]
    config = composed(*SIZES, *words)
    idx = torch.randint(29, (3, 8), generator=torch.Generator().manual_seed(1))
    for i, (word, told) in enumerate(cases):
        model = made(config, word)
        if told is not None:
            with pytest.raises(LabError, match="neither Llama nor Qwen3 has") as refusal:
                llama.exported(model)
            assert told in str(refusal.value)
            continue  # it leaves with a file of its own: test_own_file.py
        other = theirs(model, tmp_path / str(i)).eval()
        for dtype, tolerance in PRECISIONS.items():
            with torch.no_grad():
                mine, its = model.to(dtype)(idx), other.to(dtype)(idx).logits
            distance = ((mine - its).abs().max() / mine.std()).item()
            assert distance < tolerance, (word, dtype)


def test_in_training_they_are_the_same_but_for_a_temperature_and_dropout(composed, tmp_path):
    idx = torch.randint(29, (3, 8), generator=torch.Generator().manual_seed(1))
    for words, temperature in (
        (["model=gpt"], 1.0),
        (["model=gpt2"], 1.0),
        (["model=modern", *LLAMA], 1.0),
        (["model=modern", *QWEN, "model.temperature=1.7"], 1.7),
    ):
        model = made(composed(*SIZES, *words)).train()
        its = theirs(model, tmp_path / "there").train()(idx).logits
        assert (model(idx) / temperature - its).abs().max() < 1e-4
        told = list(llama.caveats(model)) if words[0] == "model=modern" else []
        assert bool(told) == (temperature != 1)


def test_dropout_goes_along(composed, tmp_path):
    def rates(model: Any) -> set[float]:
        return {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}

    for dropout in (0.0, 0.25):
        model = made(composed(*SIZES, "model=gpt2", f"model.dropout={dropout}"))
        assert rates(theirs(model, tmp_path / str(dropout)).transformer) == {dropout}
    for words, attention, told in (
        (["model.dropout=0.25"], 0.25, ["dropout is of attention weights alone (0.25)"]),
        (["model.attention_dropout=0.5"], 0.5, []),
        (["model.dropout=0.25", "model.attention_dropout=0"], 0.0, ["weights alone (0)"]),
    ):
        model = made(composed(*SIZES, "model=modern", *LLAMA, *words))
        there = theirs(model, tmp_path / f"modern{words}")
        assert there.model.layers[0].self_attn.attention_dropout == attention
        remarks = list(llama.caveats(model))
        assert len(remarks) == len(told)
        assert all(part in remark for part, remark in zip(told, remarks, strict=True))


def test_no_key_of_these_models_is_forgotten():
    for option, cases in (("gpt2", OF_GPT), ("modern", OF_MODERN)):
        keys = set(OmegaConf.load(conf_dir() / "model" / f"{option}.yaml")) - {"_target_"}
        named = {word.removeprefix("model.").partition("=")[0].split(".")[0] for word, _ in cases}
        assert named == keys
