"""What is used of Hydra's inside is in one file, and each of it fails here first when Hydra moves
it."""

import ast
import sys
import warnings
from pathlib import Path

import hydra
import pytest
from config.words.hydra_state import hydra_state
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from small import ROOT

from lmlab.config.words import hydra_inside
from lmlab.config.words.hydra_inside import version_base

FILES = [path for folder in ("src", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
OF_THE_INSIDE = {"GlobalHydra", "JobRuntime", "VersionBase"}


@pytest.fixture
def mine(tmp_path):
    """A folder of configs, one that knows nothing of the lab."""
    quiet = "[{override hydra/job_logging: none}, {override hydra/hydra_logging: none}]"
    hydra = f"{{output_subdir: null, sweep: {{dir: '{tmp_path}'}}}}"
    (tmp_path / "mine.yaml").write_text(f"defaults: {quiet}\nseed: 1\na: {{b: 2}}\nhydra: {hydra}")
    return tmp_path


def touches_the_inside(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{name}" for name in names}
        for name in names:
            package, *parts = name.split(".")
            if package in ("hydra", "omegaconf") and any(p.startswith("_") for p in parts):
                return True
            if package == "hydra" and parts and parts[-1] in OF_THE_INSIDE:
                return True
    return False


def test_one_file_touches_hydras_inside():
    assert [path.name for path in FILES if touches_the_inside(path)] == ["hydra_inside.py"]


def test_hydra_is_told_what_it_is_to_behave_as_without_a_warning(mine):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with initialize_config_dir(str(mine), **version_base()):
            assert compose("mine", ["seed=2"]).seed == 2


def test_no_command_has_a_warning_of_hydras(lab, text):
    words = ["corpus=file", f"corpus.path={text}", "trainer.accelerator=cpu", "dry_run=true"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for more in (["--help"], words, ["-m", *words, "seed=1,2"]):
            status, _, err = lab("train", *more)
            assert (status, err) == (0, "")


def test_hydras_own_flags():
    args = hydra_inside.args_parser().parse_intermixed_args(["a=1", "-m", "-cd", "there", "b=2"])
    assert (args.overrides, args.multirun, args.config_dir) == (["a=1", "b=2"], True, "there")


def test_hydra_is_given_back(mine):
    with initialize_config_dir(str(mine), job_name="theirs", version_base=None):
        theirs = compose("mine", return_hydra_config=True)
        HydraConfig.instance().set_config(theirs)
        before = hydra_state()
        with (
            hydra_inside.ours_alone(),
            initialize_config_dir(str(mine), job_name="ours", **version_base()),
        ):
            assert hydra_state() != before
        assert hydra_state() == before
        assert compose("mine", ["seed=4"]).seed == 4


@pytest.mark.parametrize(("is_multirun", "word"), [(False, "seed=3"), (True, "seed=3,5")])
def test_a_command_is_what_hydras_own_way_makes_of_it(mine, monkeypatch, is_multirun, word):
    """hydra.main reads the command line, and clears what Hydra holds."""
    given = []

    def task(config):
        given.append((config, OmegaConf.to_container(HydraConfig.get(), resolve=False)))

    words = ["-m", word] if is_multirun else [word]
    monkeypatch.setattr(sys, "argv", ["mine", *words])
    with hydra_inside.ours_alone():
        hydra.main(config_path=str(mine), config_name="mine", **version_base())(task)()
    n = len(given)
    with hydra_inside.ours_alone():
        hydra_inside.run_command(mine, "mine", [word], is_multirun, task)
    assert n == 1 + is_multirun
    for (theirs, by_theirs), (ours, by_ours) in zip(given[:n], given[n:], strict=True):
        assert ours == theirs
        for about in (by_ours, by_theirs):
            del about["job"]["name"]  # Hydra's own way calls it like this file
            del about["overrides"]["hydra"]  # where 1.3 says a mode, and 1.4 none
            del about["runtime"]["output_dir"]  # has the second in its name
        assert by_ours == by_theirs


def test_a_sweep_that_the_command_line_has_not_begun(mine):
    seeds = []
    with hydra_inside.multirun(mine, "mine", ["seed=3,5"]) as (config, run):
        assert config.hydra.sweep.dir == str(mine)
        run(lambda cfg: seeds.append(cfg.seed))
    assert seeds == [3, 5]


def test_values_are_set_as_hydra_sets_them(mine):
    words = ["seed=3", "a.b=4", "+c={d: 5}"]
    values = OverridesParser.create().parse_overrides(words)
    with initialize_config_dir(str(mine), **version_base()):
        config = compose("mine", return_hydra_config=True)
        hydra_inside.set_values(config, values, values)
        assert (config.seed, config.a.b, config.c.d) == (3, 4, 5)
        if not hydra_inside.is_1_4():
            assert config.hydra.job.override_dirname == "+c={d: 5},a.b=4,seed=3"
        (unknown,) = OverridesParser.create().parse_overrides(["seeds=3"])
        with pytest.raises(ConfigCompositionException, match="Could not override 'seeds'"):
            hydra_inside.set_values(config, [unknown], [])


def test_a_config_is_lent_to_the_resolvers(mine):
    holder = HydraConfig.instance()
    with initialize_config_dir(str(mine), **version_base()):
        config = compose("mine", ["+hydra.job.id=3"], return_hydra_config=True)
        for before in (None, object()):
            holder.cfg = before
            with hydra_inside.hydra_config_lent() as read_from:
                assert holder.cfg is before
                read_from(config)
                assert HydraConfig.get().sweep.dir == str(mine)
            assert holder.cfg is before
    holder.cfg = None


def test_what_a_job_raised():
    failed, done = JobReturn(status=JobStatus.FAILED), JobReturn(status=JobStatus.COMPLETED)
    failed.return_value = error = ValueError("no")
    done.return_value = 3
    assert hydra_inside.raised_by(failed) is error
    assert hydra_inside.raised_by(done) is None


def test_what_a_range_of_hydras_is():
    parser = OverridesParser.create()
    sweep = parser.parse_override("a=float(range(1,4))").value()
    numbers = list(sweep.range())
    for cast in hydra_inside.casts(sweep):
        numbers = list(map(cast, numbers))
    assert [repr(number) for number in numbers] == ["1.0", "2.0", "3.0"]
    in_order = list(parser.parse_override("a=sort(range(10,0,-4))").value().range())
    assert (in_order == [2, 6, 10]) == hydra_inside.sorts_ranges()
