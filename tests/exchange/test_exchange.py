"""Weights and tokenizers, to Hugging Face's tools and back, and from nanoGPT."""

import json
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from small import SMALL

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.append(str(Path(sys.prefix) / "transformers"))  # see requirements-transformers.lock
if not os.environ.get("CI"):
    pytest.importorskip("transformers")
import transformers

from lmlab.data.bpe import BPETokenizer
from lmlab.data.tokenizer import ByteTokenizer, CharTokenizer, GPT2Tokenizer
from lmlab.exchange import tokenizer_files
from lmlab.exchange.foreign import find_foreign
from lmlab.models.gpt import GPT
from lmlab.models.sampling import generate
from lmlab.runs.directory import RunDirectory
from lmlab.training.beginning.restored import restore

transformers.utils.logging.disable_progress_bar()

SHORT = [word for word in SMALL if not word.startswith("model=")]
TEXTS = [
    "First Citizen:\nBefore we proceed any further, hear me speak.",
    "",
    "\n\n  a\tb",
    "naïve 🙂",
]
QWEN = [
    "model=modern",
    "model.norm._target_=lmlab.models.parts.RMSNorm",
    "model.qk_norm._target_=lmlab.models.parts.RMSNorm",
    "model.feed_forward._target_=lmlab.models.parts.SwiGLU",
    *("model.soft_cap=null", "model.projection_scale=1"),
]
SIZES = ["model.n_layer=2", "model.n_head=4", "model.n_embd=32"]
EXPORTED = {
    "gpt": ["model=gpt"],
    "gpt2": ["model=gpt2"],
    "llama": [*QWEN, "model.qk_norm=null", "model.n_kv_head=2"],
    "qwen": QWEN,
    "qwen with gains, tied": [*QWEN, "model.qk_norm.gain=true", "model.tied=true"],
    "warm": [*QWEN, "model.tied=true", "model.temperature=1.7", "model.dropout=0.1"],
}


@pytest.fixture
def trained(experiment):
    """trained("model=gpt"): a small run, whose logits are far from flat."""

    def run(*overrides: str) -> RunDirectory:
        return experiment(*SIZES, "optimizer.lr=0.03", "trainer.max_steps=8", *overrides)

    return run


def logits_of(run: RunDirectory, idx: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return restore(run, "last").model(idx)


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", EXPORTED)
def test_transformers_computes_and_writes_the_same(lab, trained, tmp_path, name):
    run = trained(*EXPORTED[name])
    folder = tmp_path / "out"
    status, said, err = lab("export", f"run={run.path}", "to=hf", f"folder={folder}")
    assert (status, err) == (0, "")
    assert "model.safetensors" in said
    assert ("trained on there" in said) == (name == "warm")
    block_size = run.config["data"]["block_size"]
    idx = torch.randint(65, (3, block_size), generator=torch.Generator().manual_seed(1))
    theirs = loaded(folder)
    with torch.no_grad():
        distance = (theirs(idx).logits - logits_of(run, idx)).abs().max()
    assert distance < 1e-5
    assert logits_of(run, idx).std() > 0.1

    mine = restore(run, "last")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("ROM", return_tensors="pt").input_ids
    assert prompt[0].tolist() == mine.tokenizer.encode("ROM").tolist()
    n = block_size - prompt.shape[1]
    out = theirs.generate(prompt, max_new_tokens=n, do_sample=False, pad_token_id=0)
    tokens = [int(t) for t in generate(mine.model, prompt, n, temperature=0)]
    assert tokenizer.decode(out[0]) == "ROM" + mine.tokenizer.decode(tokens)

    if name.startswith("gpt"):  # and back
        status, _, err = lab(
            *("train", *SHORT, f"from={folder}", "run_dir=back", "trainer.max_steps=0"),
            *("corpus=file", f"corpus.path={run.config['corpus']['path']}"),
        )
        assert (status, err) == (0, "")
        assert torch.equal(logits_of(RunDirectory(Path("back")), idx), logits_of(run, idx))


def test_a_tokenizer_makes_the_same_ids_there_and_back(tmp_path, tinyshakespeare_path):
    pieces = [tinyshakespeare_path.read_text()[:20_000]]
    made = [CharTokenizer.fit(pieces), ByteTokenizer(), BPETokenizer.fit(pieces, 300)]
    made.append(_small_gpt2(pieces))
    made += [tokenizer.with_end_of_text() for tokenizer in made]  # of documents
    for n, tokenizer in enumerate(made):
        folder = tmp_path / str(n)
        folder.mkdir()
        stored = json.dumps(tokenizer_files.tokenizer_json(tokenizer))
        (folder / "tokenizer.json").write_text(stored)
        (folder / "tokenizer_config.json").write_text(
            json.dumps(tokenizer_files.tokenizer_config(tokenizer, 8))
        )
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        assert (theirs.eos_token_id, len(theirs)) == (tokenizer.end_of_text, tokenizer.vocab_size)
        for text in [TEXTS[0]] if tokenizer.kind == "char" else TEXTS:
            ids = theirs(text).input_ids
            assert ids == tokenizer.encode(text).tolist(), tokenizer.kind
            assert theirs.decode(ids) == text
        expected = tokenizer.stored()
        if tokenizer.kind == "gpt2":  # has one in any case, that a corpus of documents turns on
            expected.pop("end_of_text", None)
        assert tokenizer_files.read_tokenizer(folder).stored() == expected


def test_a_model_of_documents_ends_there_too(lab, trained, tmp_path):
    path = tmp_path / "two.jsonl"
    path.write_text('{"text": "né"}\n{"text": "ab"}\n' * 200, encoding="utf-8")
    of_documents = ["corpus=file", f"corpus.path={path}", "corpus.split=end"]
    run = trained("model=gpt", *of_documents, "trainer.max_steps=100")
    folder = tmp_path / "out"
    assert lab("export", f"run={run.path}", "to=hf", f"folder={folder}")[0] == 0
    theirs, tokenizer = loaded(folder), transformers.AutoTokenizer.from_pretrained(folder)
    ids = theirs.generate(max_new_tokens=6, do_sample=False)[0]  # of no prompt
    assert ids[0] == ids[-1] == tokenizer.eos_token_id
    document = tokenizer.decode(ids, skip_special_tokens=True)
    assert document in ("né", "ab")
    status, said, err = lab("generate", f"run={run.path}", "temperature=0", "max_new_tokens=6")
    assert (status, said, err) == (0, f"{document}\n", "")
    status, _, err = lab(
        *("train", *SHORT, *of_documents, f"from={folder}", "run_dir=back", "trainer.max_steps=0")
    )
    assert (status, err) == (0, "")
    again = restore(RunDirectory(Path("back")), "last").tokenizer
    assert again.stored() == restore(run, "last").tokenizer.stored()


def _small_gpt2(pieces: list[str]) -> GPT2Tokenizer:
    """In GPT-2's form, whose ids begin with the bytes in the order in which they are printed."""
    learnt = BPETokenizer.fit(pieces, 300)
    tokens = [learnt.token_bytes(i) for i in range(300)]
    printed = sorted(tokens[:256], key=lambda token: (token[0] not in range(33, 127), token))
    return GPT2Tokenizer([*printed, *tokens[256:]])


def test_the_two_files_of_gpt2_are_a_tokenizer_too(tmp_path, tinyshakespeare_path):
    tokenizer = _small_gpt2([tinyshakespeare_path.read_text()[:20_000]])
    model = tokenizer_files.tokenizer_json(tokenizer)["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (tmp_path / "merges.txt").write_text("\n".join(lines))
    assert tokenizer_files.read_tokenizer(tmp_path).stored() == tokenizer.stored()


@pytest.fixture
def hugging_face(tmp_path) -> Path:
    """A GPT-2 of random weights, as transformers writes it, with a tokenizer of characters."""
    folder = tmp_path / "hf"
    torch.manual_seed(1)
    sizes = {"vocab_size": 28, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
    nobody = {"bos_token_id": None, "eos_token_id": None}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **nobody))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    alphabet = CharTokenizer("\n ,.abcdefghijklmnopqrstuvw")
    assert alphabet.vocab_size == 27  # the model has a row more
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_files.tokenizer_json(alphabet)))
    return folder


@pytest.fixture
def begin(lab, tmp_path):
    """begin(folder, *overrides): `from=` it, on a text that it knows."""
    text = tmp_path / "words.txt"
    text.write_text("the quick brown dog, and the cat.\n" * 40)

    def run(path: Path, *overrides: str):
        words = [*SHORT, "corpus=file", f"corpus.path={text}", "run_dir=begun", f"from={path}"]
        return lab("train", *words, *overrides)

    return run


def test_a_run_begins_with_hugging_faces_weights(begin, lab, hugging_face):
    status, said, err = begin(hugging_face, "trainer.max_steps=0")
    assert (status, err) == (0, "")
    assert "val/loss_full" in said
    run = RunDirectory(Path("begun"))
    assert run.config["model"]["n_layer"] == 2
    assert run.config["data"]["block_size"] == 8  # as SMALL has it
    idx = torch.randint(27, (4, 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = loaded(hugging_face)(idx).logits[..., :27]
    assert (logits_of(run, idx) - expected).abs().max() < 1e-5

    hugging_face.rename(hugging_face.with_name("elsewhere"))  # it is not needed any more
    assert lab("evaluate", "run=begun")[0] == 0
    status, said, _ = lab("generate", "run=begun", "prompt=the", "max_new_tokens=5", "seed=1")
    assert (status, said[:3]) == (0, "the")
    status, said, err = lab("train", "from=begun", "trainer.max_steps=20", "run_dir=tuned")
    assert (status, err) == (0, "")
    tuned, before = RunDirectory(Path("tuned")).record, run.record
    assert tuned["metrics"]["val/loss_full"] < before["metrics"]["val/loss_full"]


def test_fine_tuning_in_one_command_goes_on_after_a_kill(begin, hugging_face, lab):
    status, said, err = begin(hugging_face, "trainer.max_steps=12", "eval.every=4")
    assert (status, err) == (0, "")
    assert "before training" in said
    whole = RunDirectory(Path("begun"))
    for path in whole.checkpoints()[:-1]:
        path.unlink()
    whole.update(status="interrupted")
    weights = restore(whole, "last")
    assert weights.step < 12
    status, _, err = lab("train", "run=begun")
    assert (status, err) == (0, "")
    assert restore(RunDirectory(Path("begun")), "last").step == 12


def test_a_sweep_begins_with_hugging_faces_weights(lab, hugging_face, tmp_path):
    text = tmp_path / "words.txt"
    text.write_text("the quick brown dog, and the cat.\n" * 40)
    words = ["-m", *SHORT, "corpus=file", f"corpus.path={text}", f"from={hugging_face}"]
    status, said, err = lab("train", *words, "seed=1,2", "logger.tensorboard=false")
    assert (status, err) == (0, "")
    assert "2/2 done" in said
    runs = [RunDirectory(path.parent) for path in tmp_path.glob("outputs/sweeps/*/*/run.json")]
    assert {run.record["parent"]["run"] for run in runs} == {str(hugging_face)}
    assert len({run.record["metrics"]["val/loss_full"] for run in runs}) == 2


class NanoGPT(torch.nn.Module):
    """The layout of nanoGPT's model, and what it computes, from the description of it alone."""

    def __init__(self, vocab_size: int, block_size: int, n_layer: int, n_head: int, n_embd: int):
        super().__init__()
        nn, self.n_head = torch.nn, n_head
        blocks = [
            nn.ModuleDict(
                {
                    "ln_1": nn.LayerNorm(n_embd),
                    "attn": nn.ModuleDict(
                        {
                            "c_attn": nn.Linear(n_embd, 3 * n_embd),
                            "c_proj": nn.Linear(n_embd, n_embd),
                        }
                    ),
                    "ln_2": nn.LayerNorm(n_embd),
                    "mlp": nn.ModuleDict(
                        {
                            "c_fc": nn.Linear(n_embd, 4 * n_embd),
                            "c_proj": nn.Linear(4 * n_embd, n_embd),
                        }
                    ),
                }
            )
            for _ in range(n_layer)
        ]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab_size, n_embd),
                "wpe": nn.Embedding(block_size, n_embd),
                "h": nn.ModuleList(blocks),
                "ln_f": nn.LayerNorm(n_embd),
            }
        )
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.2)

    def forward(self, idx):
        F, parts = torch.nn.functional, self.transformer
        x = parts["wte"](idx) + parts["wpe"](torch.arange(idx.shape[1]))
        for block in parts["h"]:
            B, T, C = x.shape
            qkv = block["attn"]["c_attn"](block["ln_1"](x)).split(C, dim=2)
            q, k, v = (t.view(B, T, self.n_head, -1).transpose(1, 2) for t in qkv)
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block["attn"]["c_proj"](out.transpose(1, 2).reshape(B, T, C))
            x = x + block["mlp"]["c_proj"](F.gelu(block["mlp"]["c_fc"](block["ln_2"](x))))
        return self.lm_head(parts["ln_f"](x))


@pytest.fixture
def nanogpt(tmp_path) -> Path:
    """The folder of a training of nanoGPT's, by a compiled model."""
    folder = tmp_path / "out-shakespeare"
    folder.mkdir()
    torch.manual_seed(2)
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 16, "vocab_size": 27}
    model = NanoGPT(**sizes)
    state = {f"_orig_mod.{name}": value for name, value in model.state_dict().items()}
    arguments = {**sizes, "bias": True, "dropout": 0.2}
    torch.save({"model": state, "model_args": arguments, "iter_num": 5}, folder / "ckpt.pt")
    itos = dict(enumerate("\n ,.abcdefghijklmnopqrstuvw"))
    meta = {"vocab_size": 27, "itos": itos, "stoi": {c: i for i, c in itos.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return folder


@pytest.mark.parametrize("name", [".", "ckpt.pt"])
def test_a_run_begins_with_nanogpts_weights(begin, nanogpt, name):
    status, _, err = begin(nanogpt / name, "trainer.max_steps=0", "data.block_size=16")
    assert (status, err) == (0, "")
    run = RunDirectory(Path("begun"))
    idx = torch.randint(27, (4, 16), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 16, "vocab_size": 27}
    with torch.no_grad():
        expected = NanoGPT(**sizes)(idx)
    assert (logits_of(run, idx) - expected).abs().max() < 1e-5
    assert restore(run, "last").tokenizer.encode("dog").tolist() == [7, 18, 10]


class Code:
    def __reduce__(self):
        return os.mkdir, ("was-run",)


def _config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _without(folder: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if k != name}, path)


def _with(folder: Path, **tensors: torch.Tensor) -> None:
    """Tensors added or put in the place of others, by names with __ for a dot."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({**load_file(path), **named}, path)


def _pickled(folder: Path, change: Any) -> None:
    """The same weights by torch.save, with what `change` makes of them."""
    from safetensors.torch import load_file

    torch.save(change(load_file(folder / "model.safetensors")), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _header(folder: Path, dtype: str | None) -> None:
    """A header that says another type of the first tensor, of as many bytes."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    first = header["transformer.h.0.attn.c_attn.bias"]
    del first["dtype"]
    first |= {"dtype": dtype} if dtype else {}
    written = json.dumps(header).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + content[8 + size :])


def _sparse(folder: Path) -> None:
    """Two terabytes of zeros that take no place on a disk, and a config that wants them."""
    n_rows = 1 << 34
    tensor = {"dtype": "F32", "shape": [n_rows, 32], "data_offsets": [0, n_rows * 128]}
    header = json.dumps({"transformer.wte.weight": tensor}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + n_rows * 128)
    _config(folder, vocab_size=n_rows)


def _few_numbers_many_rows(folder: Path) -> None:
    """An embedding of more rows than any memory holds, all of which are one."""
    n_rows = 1 << 40
    one = torch.zeros(1, 32).expand(n_rows, 32)
    _pickled(folder, lambda tensors: {**tensors, "transformer.wte.weight": one})
    _config(folder, vocab_size=n_rows)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


BROKEN = {
    "another architecture": (lambda f: _config(f, model_type="llama"), "model_type='llama'"),
    "an activation": (lambda f: _config(f, activation_function="relu"), "'relu'"),
    "a size": (lambda f: _config(f, n_layer="two"), "n_layer='two' where a positive number"),
    "more layers": (lambda f: _config(f, n_layer=3), "transformer.h.2.ln_1.weight is missing"),
    "fewer layers": (lambda f: _config(f, n_layer=1), "has no place in this model"),
    "wider": (lambda f: _config(f, n_embd=64), "where (28, 64) is expected"),
    "a million layers": (lambda f: _config(f, n_layer=10**6), "h.2.ln_1.weight is missing"),
    "a vocabulary": (lambda f: _config(f, vocab_size=10**12), "wte.weight has the shape (28, 32)"),
    "a block": (lambda f: _config(f, n_positions=10**12), "wpe.weight has the shape (16, 32)"),
    "a width": (lambda f: _config(f, n_embd=10**12), "where (28, 1000000000000) is expected"),
    "heads": (lambda f: _config(f, n_head=5), "n_embd=32 is not divisible by n_head=5"),
    "many heads": (lambda f: _config(f, n_head=10**12), "is not divisible by n_head=1000000000000"),
    "tied with another": (
        lambda f: _with(f, lm_head__weight=torch.zeros(28, 32)),
        "lm_head.weight is another than transformer.wte.weight",
    ),
    "untied without one": (
        lambda f: _config(f, tie_word_embeddings=False),
        "lm_head.weight is missing",
    ),
    "tied perhaps": (lambda f: _config(f, tie_word_embeddings="yes"), "tie_word_embeddings='yes'"),
    "a gelu of a list": (lambda f: _config(f, activation_function=[1]), "activation_function=[1]"),
    "complex": (
        lambda f: _with(f, transformer__ln_f__bias=torch.zeros(32, dtype=torch.complex64)),
        "transformer.ln_f.bias holds C64",
    ),
    "whole numbers": (
        lambda f: _with(f, transformer__ln_f__bias=torch.zeros(32, dtype=torch.int8)),
        "transformer.ln_f.bias holds I8",
    ),
    "NaN": (
        lambda f: _with(f, transformer__ln_f__bias=torch.full((32,), torch.nan)),
        "transformer.ln_f.bias holds NaN",
    ),
    "beyond float32": (
        lambda f: _with(f, transformer__ln_f__bias=torch.full((32,), 1e300, dtype=torch.float64)),
        "transformer.ln_f.bias holds NaN, or numbers beyond",
    ),
    "a type that nobody knows": (lambda f: _header(f, "F99"), "is damaged or cut off"),
    "a type of another kind": (lambda f: _header(f, "U32"), "c_attn.bias holds U32"),
    "no type": (lambda f: _header(f, None), "is damaged or cut off"),
    "no tensors": (
        lambda f: (f / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}"),
        "transformer.wte.weight is missing",
    ),
    "terabytes of nothing": (_sparse, "this machine has"),
    "a row a trillion times": (_few_numbers_many_rows, "this machine has"),
    "a pickled list": (lambda f: _pickled(f, lambda t: list(t.values())), "holds a list"),
    "a pickled text": (lambda f: _pickled(f, lambda t: {**t, "x": "y"}), "x is a str"),
    "a pickled number's name": (lambda f: _pickled(f, lambda t: {**t, 3: t}), "3 is a dict"),
    "pickled, nothing": (lambda f: _pickled(f, lambda t: {}), "wte.weight is missing"),
    "pickled, sparse": (
        lambda f: _pickled(f, lambda t: {**t, "x": torch.zeros(3, 3).to_sparse()}),
        "x is torch.sparse_coo",
    ),
    "pickled, complex": (
        lambda f: _pickled(f, lambda t: {k: v.to(torch.complex64) for k, v in t.items()}),
        "holds torch.complex64",
    ),
    "pickled, elsewhere": (
        lambda f: _pickled(f, lambda t: {k: v.to("meta") for k, v in t.items()}),
        "on meta, where plain tensors belong",
    ),
    "far fewer ids than rows": (
        lambda f: (
            _with(f, transformer__wte__weight=torch.zeros(5000, 32)),
            _config(f, vocab_size=5000),
        ),
        "its tokenizer has 27 ids, and its embedding 5,000 rows",
    ),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "a tensor missing": (
        lambda f: _without(f, "transformer.ln_f.bias"),
        "transformer.ln_f.bias is missing",
    ),
    "cut off": (lambda f: _cut(f / "model.safetensors"), "is damaged or cut off"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "but none of model.safetensors"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer that can be"),
    "another tokenizer": (
        lambda f: (f / "tokenizer.json").write_text('{"model": {"type": "Unigram", "vocab": {}}}'),
        "no tokenizer that the lab has an equal of",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_folders_are_refused_in_one_line(begin, hugging_face, how):
    break_it, message = BROKEN[how]
    break_it(hugging_face)
    status, _, err = begin(hugging_face, "trainer.max_steps=0")
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not Path("begun/checkpoints").exists()


def test_sizes_that_are_typed_are_those_of_the_weights(begin, hugging_face):
    for typed, told in {
        "model.n_layer=3": "model.n_layer=3: from=",
        "model.n_layer=1": "has 2; leave it out",
        "model.n_head=2": "has 4; leave it out",
        "model.gelu=none": "has tanh; leave it out",
    }.items():
        status, _, err = begin(hugging_face, "trainer.max_steps=0", typed)
        assert (status, err.count("\n")) == (2, 1)
        assert told in err
    assert begin(hugging_face, "trainer.max_steps=0", "model.tied=false")[0] == 0


def test_weights_of_every_float_type_are_read(hugging_face, tmp_path):
    from safetensors.torch import load_file, save_file

    path = hugging_face / "model.safetensors"
    original = load_file(path)
    sizes = {"vocab_size": 28, "block_size": 16, "n_layer": 2, "n_head": 4, "n_embd": 32}
    model = GPT(**sizes, bias=True, tied=True)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        save_file({name: tensor.to(dtype) for name, tensor in original.items()}, path)
        weights = find_foreign(str(hugging_face)).weights(model)
        expected = original["transformer.wte.weight"].to(dtype).float()
        assert torch.equal(weights["token_embedding.weight"], expected)
    # Older files are one pickle, newer ones an archive of which only what is asked for is read.
    path.unlink()
    for archive in (True, False):
        torch.save(
            original, path.with_name("pytorch_model.bin"), _use_new_zipfile_serialization=archive
        )
        weights = find_foreign(str(hugging_face)).weights(model)
        assert torch.equal(weights["token_embedding.weight"], original["transformer.wte.weight"])


def test_nothing_in_a_checkpoint_of_nanogpts_is_run(begin, nanogpt, tmp_path):
    for name, message in {"ckpt.pt": "would run code", "meta.pkl": "would run code"}.items():
        before = (nanogpt / name).read_bytes()
        (nanogpt / name).write_bytes(pickle.dumps({"model": Code(), "itos": Code()}))
        status, _, err = begin(nanogpt)
        assert status == 2
        assert message in err
        (nanogpt / name).write_bytes(before)
    assert not list(tmp_path.rglob("was-run"))
    meta = pickle.loads((nanogpt / "meta.pkl").read_bytes())
    for change, message in (
        (
            {"itos": {i: c for i, c in meta["itos"].items() if i < 20}, "stoi": None},
            "20 characters",
        ),
        ({"itos": {**meta["itos"], 26: "no"}, "stoi": None}, "no single characters"),
        ({"stoi": {**meta["stoi"], "a": 1}}, "are of two vocabularies"),
        ({"itos": None}, "is no meta.pkl of nanoGPT's"),
    ):
        (nanogpt / "meta.pkl").write_bytes(pickle.dumps({**meta, **change}))
        status, _, err = begin(nanogpt)
        assert (status, err.count("\n")) == (2, 1)
        assert message in err
    (nanogpt / "meta.pkl").unlink()
    assert "put the meta.pkl" in begin(nanogpt)[2]
    _cut(nanogpt / "ckpt.pt")
    assert "is damaged or cut off" in begin(nanogpt)[2]


@pytest.mark.parametrize("part", ["data.pkl", "data/0"])
def test_a_small_file_that_stands_for_a_large_one_is_refused(begin, nanogpt, part):
    path = nanogpt / "ckpt.pt"
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content + bytes(10**8 if name.endswith(part) else 0))
    assert path.stat().st_size < 10**6
    status, _, err = begin(nanogpt)
    assert (status, err.count("\n"), "is damaged or cut off" in err) == (2, 1, True)


def test_what_from_refuses_besides(begin, hugging_face):
    assert "knows 16 positions" in begin(hugging_face, "data.block_size=32")[2]
    assert "are GPT-2's weights: leave out model=" in begin(hugging_face, "model=bigram")[2]
    status, _, err = begin(Path("gpt2"))
    assert status == 2
    assert "nothing is downloaded here" in err


def test_the_weights_alone(lab, trained, tmp_path):
    from safetensors.torch import load_file

    run = trained("model=modern", "model.tied=true")
    folder = tmp_path / "plain"
    words = ["export", f"run={run.path}", "to=safetensors", f"folder={folder}"]
    status, _, err = lab(*words)
    assert (status, err) == (0, "")
    tensors = load_file(folder / "model.safetensors")
    model = restore(run, "last").model
    missing, extra = model.load_state_dict(tensors, strict=False)
    assert not extra
    assert set(missing) <= {"lm_head.weight", "token_embedding.weight"}
    about = json.loads((folder / "lmlab.json").read_text())
    assert about["model"] == run.config["model"]
    assert lab(*words)[2].startswith("error: folder=")
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_a_folder_that_is_a_file(lab, trained, tmp_path):
    run = trained("model=gpt")
    (tmp_path / "file").write_text("")
    status, _, err = lab("export", f"run={run.path}", f"folder={tmp_path / 'file'}")
    assert (status, err) == (2, f"error: folder={tmp_path / 'file'} is a file\n")
    status, _, err = lab("export", f"run={run.path}", f"folder={tmp_path / 'file/out'}")
    assert status == 2
    assert err.startswith("error: cannot write")


def test_a_run_is_no_foreign_folder(trained):
    assert find_foreign(str(trained("model=gpt").path)) is None
