"""Words that are nearly right: one line says what to write."""

import pytest

from lmlab.config.slips import CALLED_ELSEWHERE, OURS, nearest, several_values
from lmlab.config.words.compose import composed

SLIPS = {
    "--lr=0.1": "--lr=0.1: keys have no dashes; write optimizer.lr=0.1",
    "--model gpt": "--model: keys have no dashes; write model=gpt",
    "--max-steps 100": "--max-steps: keys have no dashes; write trainer.max_steps=100",
    "--foo": "--foo: no such flag; --help lists them all",
    "steps=100": "unknown key steps; did you mean trainer.max_steps?",
    "model.heads=2": "unknown key model.heads; did you mean model.n_head?",
    "trainer.val_check_interval=9": "unknown key trainer.val_check_interval; did you mean "
    "eval.every?",
    "seed = 3": "seed: write it without spaces, seed=3",
    "hello": "hello: a word is key=value",
    "seed=1,2": "seed=1,2: several values are a sweep, so give -m too; a list is seed=[1,2]",
    "optimizer.lr=[1e-3,1e-2]": "optimizer.lr=[0.001, 0.01]: input should be a valid number; "
    "several values are a sweep: -m optimizer.lr=0.001,0.01",
    "-m seed=1..3": "seed='1..3': input should be a valid integer; several values are a sweep: -m "
    "seed=range(1,4)",
    "experiment=nanogpt": "experiment=nanogpt is a folder of options: nanogpt/cpu",
    "experiment=none": "experiment=none: no such option (notebook, "
    "quickstart, scaling, lecture/… (10), modern/… (31), nanogpt/… (1), "
    "record/… (9), slowrun/… (12))",
}


@pytest.mark.parametrize("typed", SLIPS)
def test_a_slip_is_told_what_to_write(lab, tmp_path, typed):
    status, out, err = lab("train", *typed.split())
    assert (status, out, err) == (2, "", f"error: {SLIPS[typed]}\n")
    assert not (tmp_path / "outputs").exists()


def test_every_name_from_elsewhere_leads_to_a_key_there_is():
    config = composed("train", [])
    for key in {*CALLED_ELSEWHERE} - {"corpus"}:
        node = config
        for name in key.split("."):
            node = node[name]
    assert len(OURS) == sum(map(len, CALLED_ELSEWHERE.values()))  # none stands for two


def test_what_looks_like_several_values():
    assert several_values([1, 2]) == "1,2"
    assert several_values("1..3") == several_values("1...3") == "range(1,4)"
    assert [several_values(v) for v in ([1], [[1], [2]], "a..b", 3, None)] == [None] * 5


def test_the_nearest_name_is_looked_for_whole_then_by_its_end():
    assert nearest("model.n_layr", ["model.n_layer", "seed"]) == "; did you mean model.n_layer?"
    assert nearest("lr", ["optimizer.lr", "seed"]) == "; did you mean optimizer.lr?"
    assert nearest("zzz", ["optimizer.lr"]) == ""
