"""Keys that go together, and keys whose values depend on another's."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st
from sweeps.conftest import records

from lmlab.config.stored import conf_dir
from lmlab.config.words.axes import Axes, every_row, swept_keys
from lmlab.config.words.hydra_inside import is_1_4, version_base
from lmlab.errors import LabError
from lmlab.sweeps.search.space import Space

SIZE = {"size": "zip(model.n_layer=[1,2],model.n_embd=[32,64])"}
RATES = {
    "optimizer=sgd": {"optimizer.lr": "0.1,1"},
    "optimizer=adam,adamw": {"optimizer.lr": "1e-3"},
}


def jobs(params, when=None, *arguments):
    return list(Axes.parse(params, when or {}, arguments).jobs(every_row))


def test_keys_that_go_together_are_one_axis():
    found = jobs({**SIZE, "seed": "1,2"})
    sizes = (["model.n_layer=1", "model.n_embd=32"], ["model.n_layer=2", "model.n_embd=64"])
    assert found == [[*size, f"seed={seed}"] for size in sizes for seed in (1, 2)]


@given(st.lists(st.tuples(st.integers(), st.integers(), st.integers()), min_size=1, max_size=6))
def test_each_job_has_one_row(rows):
    columns = [",".join(map(str, column)) for column in zip(*rows, strict=True)]
    text = ", ".join(f"{key}=[{c}]" for key, c in zip("abc", columns, strict=True))
    once = dict.fromkeys(rows)
    assert jobs({"rows": f"zip({text})"}) == [[f"a={a}", f"b={b}", f"c={c}"] for a, b, c in once]


def test_values_may_be_lists_texts_ranges_and_groups():
    said = "zip(betas=choice([0.9,0.95],[0.9,0.99]),name=['a, b)',c],n=range(2),model=[head,gpt])"
    assert jobs({"all": said}) == [
        ["betas=[0.9,0.95]", r"name=a\,\ b\)", "n=0", "model=head"],
        ["betas=[0.9,0.99]", "name=c", "n=1", "model=gpt"],
    ]


def test_rows_are_given_one_by_one_and_may_sweep_and_differ_in_their_keys():
    size = [
        {"tokenizer": "char", "seed": "1,2"},
        {"tokenizer": "bpe", "vocab_size": 512, "seed": 1},
    ]
    params = {"size": size, "model": "gpt,head"}
    rows = [["tokenizer=char", "seed=1"], ["tokenizer=char", "seed=2"]]
    rows.append(["tokenizer=bpe", "vocab_size=512", "seed=1"])
    models = ("gpt", "head")
    assert jobs(params) == [[*row, f"model={model}"] for row in rows for model in models]
    assert swept_keys({"params": params}) == {"tokenizer", "vocab_size", "seed", "model"}
    # What the command line says of a key, the rows no longer say.
    rows = [["tokenizer=char"], ["tokenizer=bpe", "vocab_size=512"]]
    found = jobs(params, None, "seed=3")
    assert found == [["seed=3", *row, f"model={model}"] for row in rows for model in models]


def test_values_depend_on_another_key():
    found = jobs({"optimizer": "sgd,adam,adamw,muon", "seed": "1"}, RATES)
    assert found == [
        ["optimizer=sgd", "seed=1", "optimizer.lr=0.1"],
        ["optimizer=sgd", "seed=1", "optimizer.lr=1"],
        ["optimizer=adam", "seed=1", "optimizer.lr=1e-3"],
        ["optimizer=adamw", "seed=1", "optimizer.lr=1e-3"],
        ["optimizer=muon", "seed=1"],
    ]


def test_without_a_condition_that_holds_the_axis_has_its_own_values():
    params = {"experiment": "a,ngram", "seed": "1,2"}
    found = jobs(params, {"experiment=ngram": {"seed": "1"}})
    assert found == [
        ["experiment=a", "seed=1"],
        ["experiment=a", "seed=2"],
        ["experiment=ngram", "seed=1"],
    ]


def test_a_condition_may_be_on_what_depends_on_another_or_goes_together():
    when = {
        "a=1": {"b": "3,4"},
        "b=4": {"c": "5,6"},
        "model.n_embd=64": {"d": "zip(d.x=[7,8],d.y=[9,10])"},
    }
    found = jobs({"a": "1,2", **SIZE}, when)
    assert ["a=1", "model.n_layer=2", "model.n_embd=64", "b=4", "c=6", "d.x=8", "d.y=10"] in found
    assert ["a=2", "model.n_layer=1", "model.n_embd=32"] in found
    assert len(found) == (3 + 1) * (1 + 2)
    space = Space.of(Axes.parse({"a": "1,2", **SIZE}, when, []))
    seen = {word for job in space.examples() for word in job.words}
    assert seen == {word for job in found for word in job}


def test_the_command_line_replaces_what_it_says_anything_of():
    params, when = {"optimizer": "sgd,adam,adamw", **SIZE}, RATES
    found = jobs(params, when, "optimizer=sgd", "model.n_embd=8")
    assert found == [
        ["optimizer=sgd", "model.n_embd=8", f"model.n_layer={n}", f"optimizer.lr={lr}"]
        for n in (1, 2)
        for lr in ("0.1", "1")
    ]
    found = jobs(params, when, "optimizer=sgd", "model.n_embd=8", "optimizer.lr=2")
    assert found == [
        ["optimizer=sgd", "model.n_embd=8", "optimizer.lr=2", f"model.n_layer={n}"] for n in (1, 2)
    ]


@pytest.mark.parametrize(
    ("params", "when", "problem"),
    [
        ({"s": "zip(a=[1,2],b=[1,2,3])"}, {}, "a has 2 values and b 3"),
        ({"s": "zip(a=[1,2])"}, {}, "two keys at least"),
        ({"s": "zip(a=[1,2],a=[3,4])"}, {}, "a is there twice"),
        ({"s": "zip(a=[1,2],b=interval(0,1))"}, {}, "b needs a list"),
        ({"s": "zip(a=[1,2],b=shuffle(1,2))"}, {}, "b needs a list"),
        ({"s": "zip(a=[1,2],b=3)"}, {}, "b needs a list"),
        ({"s": "zip([1,2],b=[3,4])"}, {}, "has no key"),
        ({"s": "zip(a=[1,2],b=[3,4])", "a": "1,2"}, {}, "a is of two axes, s and a"),
        ({"a": "1,2"}, {"c=1": {"b": "1,2"}}, "no axis has c"),
        ({"a": "1,2"}, {"a=3": {"b": "1,2"}}, "a never is 3"),
        ({"a": "1,2"}, {"a": {"b": "1,2"}}, "a key and its value"),
        ({"a": "1,2"}, {"a=1": {}}, "give it keys"),
        ({"a": "1,2"}, {"a=1": {"a": "3"}}, "a depends on itself"),
        ({"a": "interval(0,1)"}, {}, "a grid tries every value"),
        ({"a": "range(5,1)"}, {}, r"a=range\(5,1\): no number is in this range"),
        ({"a": "sort(range(1,5,-1))"}, {}, "no number is in this range"),
        ({"a": "range(1,5,0)"}, {}, "a step that is not 0"),
        ({"a": "range(1,inf)"}, {}, "a range has an end"),
        ({"a": "1,range(2,4)"}, {}, "a sweep within a value"),
        ({"a": "{b:range(2,4)}"}, {}, "a sweep within a value"),
        ({"a": []}, {}, "a: it has no rows"),
        ({"a": {"b": 1}}, {}, "a: give it values"),
        ({"s": "zip(a=[],b=[])"}, {}, "a has no values"),
        ({"s": "zip(a=range(10000000000),b=[1])"}, {}, "a has 10000000000 values and b 1"),
        ({"s": "zip(a=range(10000000000),b=range(10000000000))"}, {}, "at most 100,000"),
    ],
)
def test_what_makes_no_sense_is_named_in_one_line(params, when, problem):
    with pytest.raises(LabError, match=problem) as found:
        jobs(params, when)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("sort(range(10,0,-4))", [2, 6, 10]),
        ("sort(range(1,10,4),reverse=true)", [9, 5, 1]),
        ("sort(reverse=true, sweep=range(1,10,4))", [9, 5, 1]),
        ("sort(range(1.0,0,-0.3))", [0.1, 0.4, 0.7, 1.0]),
        ("sort(range(0.1,1.0,0.4),reverse=true)", [0.9, 0.5, 0.1]),
        ("sort(shuffle(range(10,0,-4)))", [2, 6, 10]),
        ("tag(a,sort(range(10,0,-5)))", [5, 10]),
        ("range(0,0.9,0.3)", [0.0, 0.3, 0.6]),
        ("range(10,0,-4)", [10, 6, 2]),
        ("float(range(1,4))", [1.0, 2.0, 3.0]),
        ("int(range(1.0,4.0))", [1, 2, 3]),
        ("sort(float(range(10,0,-4)))", [2.0, 6.0, 10.0]),
    ],
)
def test_the_numbers_of_a_range(text, numbers):
    assert jobs({"a": text}) == [[f"a={number}"] for number in numbers]


def test_what_is_done_to_a_sorted_range_is_right_or_refused():
    axis = {"a": "shuffle(sort(range(10,0,-4)))"}
    if is_1_4():
        assert sorted(jobs(axis)) == [["a=10"], ["a=2"], ["a=6"]]
    else:
        with pytest.raises(LabError, match="write the range in its order"):
            jobs(axis)


@pytest.mark.parametrize(
    ("params", "when", "n_jobs"),
    [
        ({"a": "range(10001)"}, {}, "10,001 jobs (a has 10,001 values)"),
        ({"a": "range(100000)", "b": "range(100000)"}, {}, "10,000,000,000 jobs"),
        ({"a": "range(0,1,1e-300)"}, {}, "10^18 or more jobs"),
        ({"a": "1,2"}, {"a=1": {"b": "range(10000000000)"}}, "at least 10,000,000,000 jobs"),
    ],
)
def test_too_many_jobs_are_counted_and_not_made(params, when, n_jobs):
    axes = Axes.parse(params, when, [])
    with pytest.raises(LabError, match=r"at most sweep\.max_jobs=10,000") as error:
        axes.check_size(10_000)
    assert n_jobs in str(error.value)


def test_jobs_under_conditions_are_counted_one_by_one():
    axes = Axes.parse({"a": "1,2"}, {"a=1": {"b": "range(60)"}, "a=2": {"b": "range(60)"}}, [])
    with pytest.raises(LabError, match=r"^at least 101 jobs \(a has 2 values\)"):
        axes.check_size(100)


def test_as_many_jobs_as_are_allowed_are_none_too_many():
    Axes.parse({"a": "range(10)", "b": "range(10)"}, {"b=3": {"a": "1"}}, []).check_size(91)


def test_values_are_one_where_a_config_has_them_as_one():
    assert jobs({"a": "1e-3,0.001,2", "b": "1,1.0,true"}) == [
        [f"a={a}", f"b={b}"] for a in ("0.001", "2") for b in ("1", "True")
    ]
    assert jobs({"a": "1,2"}, {"a=1.0": {"b": "3"}}) == [["a=1", "b=3"], ["a=2"]]
    with pytest.raises(LabError, match="a never is True"):
        jobs({"a": "1,2"}, {"a=true": {"b": "3"}})


def test_the_keys_that_are_varied():
    assert swept_keys({"params": SIZE, "when": RATES}) == {
        "model.n_layer",
        "model.n_embd",
        "optimizer.lr",
    }


def test_every_sweep_with_a_name_has_the_jobs_it_says():
    counts = {"context": 12, "scaling": 33, "ladder": 25, "optimizers": 60, "modern": 90}
    counts |= {"transfer": 112, "vocabulary": 21, "coordinates": 16}
    for name, n in counts.items():
        with initialize_config_dir(str(conf_dir()), **version_base()):
            loader = GlobalHydra.instance().config_loader()
            cfg = compose("train", [f"sweep={name}"], return_hydra_config=True)
            sweeper = cfg.hydra.sweeper
            axes = Axes.parse(sweeper.params, sweeper.when, [], loader)
        found = list(axes.jobs(every_row))
        assert len(found) == len(set(map(tuple, found))) == n, name


WORDS = ["corpus=file", "corpus.path=text.txt", "trainer.accelerator=cpu", "data.batch_size=4"]
WORDS += ["data.block_size=8", "eval.every=2", "eval.iters=1", "trainer.max_steps=2"]
WORDS += ["logger.tensorboard=false", "callbacks.sample.max_new_tokens=1"]


def test_on_the_command_line(lab, text, tmp_path):
    size = "size=zip(model.n_layer=[1,2], model.n_embd=[8,16])"
    words = ["-m", *WORDS, "model=gpt", "model.n_head=2", "seed=1", size]
    status, said, err = lab("train", *words)
    assert (status, err) == (0, "")
    (folder,) = (tmp_path / "outputs/sweeps").iterdir()
    assert folder.name.startswith("size-")
    swept = sorted(tuple(record["swept"].items()) for record in records(folder).values())
    assert len(swept) == 2
    assert {key for of_run in swept for key, _ in of_run} == {"model.n_layer", "model.n_embd"}
    assert "model.n_layer   model.n_embd" in said or "model.n_embd   model.n_layer" in said

    status, _, err = lab("train", "-m", *WORDS, "size=zip(model.n_layer=[1,2],model.n_embd=[8])")
    assert status == 2
    assert "model.n_layer has 2 values and model.n_embd 1" in err
    assert err.count("\n") == 1
    status, _, err = lab("train", *WORDS, size)
    assert (status, err) == (2, "error: size=zip(…) is many runs: give -m too\n")
    status, _, err = lab("train", "-m", *WORDS, size.replace("size", "model", 1))
    assert status == 2
    assert "model: it is a key of the config" in err
    assert lab("train", "-m", *WORDS, "size=zip(model.n_layr=[1,2],seed=[1,2])")[0] == 2
