"""Means over seeds as runs of TensorBoard's, and which runs are the best: live, nowhere on disk."""

import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sweeps.made import made
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.data.provider import RunTagFilter
from tensorboard.plugins.custom_scalar import metadata as custom_scalars
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.scalar import metadata as scalars

from lmlab.display.for_tensorboard import tensorboard_inside
from lmlab.display.for_tensorboard.event_files import BEGIN, END, numbered, write_summaries
from lmlab.display.for_tensorboard.summaries import ending
from lmlab.display.for_tensorboard.tensorboard_inside import hparams_columns, hparams_row
from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.board.scan import Scan
from lmlab.sweeps.tabs import means
from lmlab.sweeps.tabs.data_provider import ShownData
from lmlab.sweeps.tabs.means import Choice, Shown

CURVE = {10: 3.0, 20: 2.5}
EVERY_STATUS = [0, 1, 2, 3]


class Watched:
    """What is shown of a folder, looked at again when it is asked to be."""

    def __init__(self, folder: Path, top: int | None = None):
        self.scan = Scan(folder)
        self.choice = Choice(self.scan, top)

    def now(self) -> Shown:
        self.scan.look()
        self.choice._looked = -math.inf
        return self.choice.now()


def test_the_best_are_those_of_the_leaderboard_and_follow_it(tmp_path):
    names = {}
    for i, model in enumerate(["a", "b", "c"]):
        for seed in (1, 2):
            swept = {"model": model, "seed": seed}
            names[model, seed] = made(tmp_path, swept, 2.0 + i + 0.1 * seed, curve=CURVE).name
    made(tmp_path, {"model": "d", "seed": 1}, None, "failed")
    made(tmp_path, {"model": "e", "seed": 1}, float("nan"))
    watched = Watched(tmp_path, top=3)
    shown = watched.now()
    assert shown.best == {names["a", 1], names["a", 2], names["b", 1]}
    assert list(shown.means) == [f"mean/model={model}" for model in "abc"]
    assert shown.summary == (
        "the best 3 of 8 runs by val/loss_full, and the mean over seeds of 3 settings"
    )
    metrics = RunDirectory(tmp_path / names["c", 2]).record["metrics"]
    RunDirectory(tmp_path / names["c", 2]).update(metrics={**metrics, "val/loss_full": 1.0})
    assert watched.now().best == {names["c", 2], names["a", 1], names["a", 2]}
    (tmp_path / names["a", 1] / "run.json").unlink()
    assert names["a", 1] not in (watched.now().best or ())


def test_no_more_runs_than_are_ticked_are_shown(tmp_path):
    for model in range(40):
        for seed in (1, 2):
            made(tmp_path, {"model": f"m{model:02}", "seed": seed}, 2.0 + model, curve=CURVE)
    shown = Watched(tmp_path, top=10).now()
    assert len(shown.best or ()) == 10
    assert list(shown.means) == [f"mean/model=m{model:02}" for model in range(30)]
    assert "the mean over seeds of 30 of 40 settings" in shown.summary
    assert len(Watched(tmp_path).now().means) == 40


def test_each_sweep_has_means_of_its_own(tmp_path):
    for sweep, loss in (("one", 2.0), ("two", 3.0)):
        for seed in (1, 2):
            made(tmp_path / sweep, {"model": "a", "seed": seed}, loss + seed / 10, curve=CURVE)
        made(tmp_path / sweep, {"model": "b", "seed": 1}, 9.0)
    shown = Watched(tmp_path, top=2).now()
    assert sorted(shown.means) == ["one/mean/model=a", "two/mean/model=a"]
    assert {Path(path).parts[0] for path in shown.best or ()} == {"one"}


def test_a_mean_is_made_again_where_a_run_of_it_has_news(tmp_path, monkeypatch):
    runs = {}
    for model in ("a", "b"):
        for seed in (1, 2):
            path = made(tmp_path, {"model": model, "seed": seed}, None, "running", curve=CURVE)
            runs[model, seed] = path
    locks = [RunDirectory(path).locked() for path in runs.values()]
    for lock in locks:
        lock.__enter__()
    watched, made_of = Watched(tmp_path), []
    original = means.mean_curves
    monkeypatch.setattr(
        means, "mean_curves", lambda runs: made_of.append(len(runs)) or original(runs)
    )
    both = watched.now().means
    assert [(m.status, m.curves["val/loss"]) for m in both.values()] == [
        ("running", [(10, 3.0), (20, 2.5)])
    ] * 2
    for seed, loss in ((1, 2.0), (2, 1.0)):
        with (runs["b", seed] / "metrics.csv").open("a") as file:
            file.write(f"30,{loss},\n")
        now = watched.now().means
    assert made_of == [4, 2, 2]
    assert now["mean/model=b"].curves["val/loss"][2:] == [(30, 1.5)]
    assert now["mean/model=a"] == both["mean/model=a"]
    for lock in locks:
        lock.__exit__(None, None, None)
    assert watched.now().means == {}  # killed, all of them


def test_a_mean_stays_while_one_seed_is_done_before_the_others(tmp_path):
    done = made(tmp_path, {"model": "a", "seed": 1}, 2.0, curve=CURVE | {30: 2.0})
    going = made(tmp_path, {"model": "a", "seed": 2}, None, "running", curve=CURVE)
    again = made(tmp_path, {"model": "a", "seed": 1}, None, "running", curve={10: 9.0})
    with RunDirectory(going).locked(), RunDirectory(again).locked():
        (mean,) = Watched(tmp_path).now().means.values()
    assert mean.curves["val/loss"] == [(10, 3.0), (20, 2.5)]
    assert (mean.status, {run.path for run in mean.runs}) == ("running", {done, going, again})


def test_nothing_that_runs_say_keeps_the_others_from_being_shown(tmp_path):
    for n, value in enumerate([None, [], {"a": [1]}, "x" * 5000, math.inf, "../../a"]):
        for seed in (1, 2, value):
            swept = {"model": value, "seed": seed}
            record = made(tmp_path, swept, 2.0 + n, started=value, curve=CURVE) / "run.json"
            (record.parent / "metrics.csv").write_bytes(b"step,val/loss\n\xff\0,\n10,1\n")
            if n % 2:
                text = json.loads(record.read_text()) | {"best": value, "step": value}
                record.write_text(json.dumps(text))
    shown = Watched(tmp_path).now().means
    assert len(shown) == 6
    assert all(name.count("/") == 1 and len(name) < 260 for name in shown)


# --- what TensorBoard's tabs are given -------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of two settings with two seeds, one of which diverged, and one with one."""
    columns = ["val/loss_full", "val/loss"]
    for model, losses in (("a", (2.0, 2.5)), ("b", (3.0, math.nan)), ("c", (4.0,))):
        for seed, loss in enumerate(losses, 1):
            curve = {10: 3.0 + seed, 20: loss} if math.isfinite(loss) else {10: 5.0}
            path = made(tmp_path / "rates", {"model": model, "seed": seed}, loss, curve=curve)
            row = {"model": model, "seed": float(seed)}
            opening = [hparams_columns(row, row, columns, {}), hparams_row(row, "2026-01-01")]
            write_summaries(numbered(path, 1, BEGIN), opening)
            write_summaries(numbered(path, 1, END), [ending("failed")])  # as it was then
    return tmp_path


class Tabs:
    """TensorBoard's data as its tabs read it."""

    def __init__(self, folder: Path, top: int | None = None):
        multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
        own = MultiplexerDataProvider(multiplexer, str(folder))
        watched = Watched(folder, top)
        watched.now()
        self.data = ShownData(own, watched.scan, watched.choice)

    def ask(self, name: str, plugin: str | None = None, **more: Any) -> Any:
        of_plugin = {} if plugin is None else {"plugin_name": plugin}
        return getattr(self.data, name)(RequestContext(), experiment_id="", **of_plugin, **more)

    def hparams(self) -> Iterator[tuple[str, dict[str, Any], int, dict[str, float]]]:
        """The rows of HParams: name, hyperparameters, status, metrics."""
        context = backend_context.Context(type("Context", (), {"data_provider": self.data}))
        request = api_pb2.ListSessionGroupsRequest(allowed_statuses=EVERY_STATUS, slice_size=99)
        groups = list_session_groups.Handler(RequestContext(), context, "", request).run()
        for group in groups.session_groups:
            (session,) = group.sessions
            metrics = {metric.name.tag: metric.value for metric in group.metric_values}
            yield group.name, dict(group.hparams), session.status, metrics


def test_means_are_runs_with_the_curves_of_their_seeds(folder):
    tabs = Tabs(folder)
    names = [run.run_name for run in tabs.ask("list_runs")]
    of_means = ["rates/mean/model=a", "rates/mean/model=b"]
    assert names[-2:] == of_means
    assert len(names) == 7
    assert tabs.ask("list_scalars", "scalars").keys() == set(of_means)
    assert set(tabs.ask("list_plugins")) >= {"scalars", "hparams", "custom_scalars"}

    only = RunTagFilter(of_means, ["val/loss", "± sd/val/loss above", "val/loss_full"])
    curves = tabs.ask("read_scalars", "scalars", downsample=100, run_tag_filter=only)
    a, b = (curves[name] for name in of_means)
    assert [(p.step, p.value) for p in a["val/loss"]] == [(10, 4.5), (20, 2.25)]
    assert [(p.step, p.value) for p in a["val/loss_full"]] == [(100, 2.25)]
    above = a["± sd/val/loss above"]
    assert above[1].value == pytest.approx(2.25 + statistics.stdev([2.0, 2.5]), abs=1e-12)
    assert [p.step for p in b["val/loss"]] == [10]  # where the seed that diverged ends
    assert "val/loss_full" not in b
    last = tabs.ask("read_last_scalars", "scalars", run_tag_filter=only)
    assert last[of_means[0]]["val/loss"] == a["val/loss"][-1]
    listed = tabs.ask("list_scalars", "scalars", run_tag_filter=only)
    assert listed[of_means[0]]["val/loss"].max_step == 20
    some = tabs.ask("read_scalars", "scalars", downsample=1, run_tag_filter=only)
    assert [p.step for p in some[of_means[0]]["val/loss"]] == [20]
    assert tabs.ask("list_scalars", "other") == {}
    layout = tabs.ask("read_tensors", "custom_scalars", downsample=1)
    (of_one,) = layout.values()
    assert b"mean over seeds" in of_one[tensorboard_inside.LAYOUT][0].numpy.item()


def test_hparams_has_a_row_for_each_setting_with_its_status_of_today(folder):
    rows = {name: row for name, *row in Tabs(folder).hparams()}
    alone = next(name for name in rows if "mean" not in name)
    assert rows.keys() == {"rates/mean/model=a", "rates/mean/model=b", alone}
    values, status, metrics = rows["rates/mean/model=a"]
    assert (list(values), values["model"].string_value) == (["model"], "a")
    assert (status, metrics) == (api_pb2.STATUS_SUCCESS, {"val/loss_full": 2.25, "val/loss": 2.25})
    assert rows["rates/mean/model=b"][1:] == [api_pb2.STATUS_FAILURE, {"val/loss": 4.5 + 0.0}]
    assert rows[alone][0]["seed"].number_value == 1
    assert rows[alone][1] == api_pb2.STATUS_SUCCESS


def test_a_run_that_is_running_is_so_in_hparams(folder):
    path = sorted((folder / "rates").iterdir())[0]
    path.joinpath("run.json").write_text(
        json.dumps({**json.loads((path / "run.json").read_text()), "status": "running"})
    )
    with RunDirectory(path).locked():
        statuses = {name: status for name, _, status, _ in Tabs(folder).hparams()}
    assert statuses["rates/mean/model=a"] == api_pb2.STATUS_RUNNING


def test_of_the_best_runs_alone_the_others_are_asked_for_in_no_tab(folder):
    tabs = Tabs(folder, top=1)
    (best, *of_means) = (run.run_name for run in tabs.ask("list_runs"))
    assert (best[:9], len(of_means)) == ("rates/job", 2)
    other = next(str(path) for path in (folder / "rates").iterdir() if path.name not in best)
    for name in (other, f"rates/{Path(other).name}"):
        only = RunTagFilter([name])
        for ask in ("list_scalars", "list_tensors", "list_blob_sequences"):
            assert tabs.ask(ask, "scalars", run_tag_filter=only) == {}
    assert [name for name, *_ in tabs.hparams()] == of_means


def test_what_is_used_of_tensorboards_inside_is_there():
    inside = tensorboard_inside
    assert inside.SCALARS == scalars.PLUGIN_NAME
    assert inside.HPARAMS == hparams.PLUGIN_NAME
    assert (inside.CUSTOM_SCALARS, inside.LAYOUT) == (
        custom_scalars.PLUGIN_NAME,
        custom_scalars.CONFIG_SUMMARY_TAG,
    )
    board = inside.program(inside.plugins(None), lambda data: [data])
    board.configure(["tensorboard", "--logdir=nowhere", "--load_fast=false", "--reload_interval=0"])
    (data,), multiplexer = board._make_data_provider()
    assert isinstance(data, MultiplexerDataProvider)
    assert isinstance(multiplexer, EventMultiplexer)
