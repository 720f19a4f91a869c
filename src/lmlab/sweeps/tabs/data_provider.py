"""What TensorBoard's own tabs are given by `lmlab board`: its data, and the means over seeds.

TensorBoard has no way for a plugin to change what other tabs read. The board that the lab starts
itself puts this in place of TensorBoard's data; a plain `tensorboard --logdir` and `%tensorboard`
show runs as their event files are, and the means in the tab Sweeps alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from tensorboard.data.provider import (
    DataProvider,
    Run,
    RunTagFilter,
    ScalarDatum,
    ScalarTimeSeries,
    TensorDatum,
    TensorTimeSeries,
)

from lmlab.display.for_tensorboard.tensorboard_inside import (
    CUSTOM_SCALARS,
    HPARAMS,
    LAYOUT,
    SCALARS,
    band_charts,
    hparams_by_setting,
)
from lmlab.sweeps.board.scan import Scan
from lmlab.sweeps.table.curves import BAND, BANDS
from lmlab.sweeps.tabs.means import Choice, Mean, Shown

EVERYTHING = RunTagFilter()
ByTag = dict[str, dict[str, Any]]  # by run and tag


class ShownData(DataProvider):
    """TensorBoard's data as a board shows it: means as runs, and in HParams a row for each setting,
    with the status of today."""

    def __init__(self, data: DataProvider, scan: Scan, choice: Choice):
        self._data, self._scan, self._choice = data, scan, choice

    def experiment_metadata(self, ctx: Any = None, *, experiment_id: str) -> Any:
        return self._data.experiment_metadata(ctx, experiment_id=experiment_id)

    def list_plugins(self, ctx: Any = None, *, experiment_id: str) -> Collection[str]:
        plugins = set(self._data.list_plugins(ctx, experiment_id=experiment_id))
        return sorted(plugins | ({SCALARS, CUSTOM_SCALARS} if self._choice.now().means else set()))

    def list_runs(self, ctx: Any = None, *, experiment_id: str) -> list[Run]:
        shown = self._choice.now()
        runs = self._data.list_runs(ctx, experiment_id=experiment_id)
        means = [Run(name, name, mean.started) for name, mean in shown.means.items()]
        return [run for run in runs if shown.shows(run.run_name)] + means

    def list_scalars(self, ctx: Any = None, *, plugin_name: str, **asked: Any) -> ByTag:
        shown = self._choice.now()
        series = self._of_runs(shown, self._data.list_scalars, ctx, plugin_name, **asked)
        for mean, tag, points in _curves(shown, plugin_name, asked):
            about = ScalarTimeSeries(
                max_step=points[-1][0],
                max_wall_time=mean.moved,
                plugin_content=b"",
                description="",
                display_name="",
            )
            series.setdefault(mean.name, {})[tag] = about
        return series

    def read_scalars(
        self, ctx: Any = None, *, plugin_name: str, downsample: int | None = None, **asked: Any
    ) -> ByTag:
        shown = self._choice.now()
        asked["downsample"] = downsample
        data = self._of_runs(shown, self._data.read_scalars, ctx, plugin_name, **asked)
        for mean, tag, points in _curves(shown, plugin_name, asked):
            data.setdefault(mean.name, {})[tag] = [
                ScalarDatum(step, mean.moved, value) for step, value in _some(points, downsample)
            ]
        return data

    def read_last_scalars(self, ctx: Any = None, *, plugin_name: str, **asked: Any) -> ByTag:
        shown = self._choice.now()
        last = self._of_runs(shown, self._data.read_last_scalars, ctx, plugin_name, **asked)
        for mean, tag, points in _curves(shown, plugin_name, asked):
            step, value = points[-1]
            last.setdefault(mean.name, {})[tag] = ScalarDatum(step, mean.moved, value)
        return last

    def list_tensors(self, ctx: Any = None, *, plugin_name: str, **asked: Any) -> ByTag:
        shown = self._choice.now()
        if plugin_name == HPARAMS:
            return self._hparams(shown, ctx, **asked)
        series = self._of_runs(shown, self._data.list_tensors, ctx, plugin_name, **asked)
        for mean in _with_charts(shown, plugin_name, asked):
            series[mean.name] = {LAYOUT: _tensor_series(b"", mean.moved)}
        return series

    def read_tensors(self, ctx: Any = None, *, plugin_name: str, **asked: Any) -> ByTag:
        import numpy as np

        shown = self._choice.now()
        data = self._of_runs(shown, self._data.read_tensors, ctx, plugin_name, **asked)
        for mean in _with_charts(shown, plugin_name, asked):
            layout = band_charts(
                "mean over seeds ± standard deviation",
                {tag: (f"{BAND}{tag} below", f"{BAND}{tag} above") for tag in BANDS},
            )
            datum = TensorDatum(0, mean.moved, np.array(layout, dtype=object))
            data[mean.name] = {LAYOUT: [datum]}
        return data

    def list_blob_sequences(self, ctx: Any = None, *, plugin_name: str, **asked: Any) -> ByTag:
        ask = self._data.list_blob_sequences
        return self._of_runs(self._choice.now(), ask, ctx, plugin_name, **asked)

    def read_blob_sequences(self, ctx: Any = None, *, plugin_name: str, **asked: Any) -> ByTag:
        ask = self._data.read_blob_sequences
        return self._of_runs(self._choice.now(), ask, ctx, plugin_name, **asked)

    def read_blob(self, ctx: Any = None, *, blob_key: str) -> bytes:
        content: bytes = self._data.read_blob(ctx, blob_key=blob_key)
        return content

    def list_hyperparameters(self, ctx: Any = None, **asked: Any) -> Any:
        return self._data.list_hyperparameters(ctx, **asked)

    def read_hyperparameters(self, ctx: Any = None, **asked: Any) -> Any:
        return self._data.read_hyperparameters(ctx, **asked)

    def _of_runs(
        self,
        shown: Shown,
        ask: Callable[..., Mapping[str, Mapping[str, Any]]],
        ctx: Any,
        plugin_name: str,
        run_tag_filter: RunTagFilter | None = None,
        **asked: Any,
    ) -> ByTag:
        """TensorBoard's own answer, of the runs that are shown."""
        wanted = run_tag_filter or EVERYTHING
        runs = None if wanted.runs is None else wanted.runs - shown.means.keys()
        if shown.best is not None:
            runs = shown.best if runs is None else runs & shown.best
        if runs is not None and not runs:
            return {}  # no run at all is every run to the fast reader
        answer = ask(
            ctx, plugin_name=plugin_name, run_tag_filter=RunTagFilter(runs, wanted.tags), **asked
        )
        return {run: dict(tags) for run, tags in answer.items() if shown.shows(run)}

    def _hparams(
        self,
        shown: Shown,
        ctx: Any,
        experiment_id: str,
        run_tag_filter: RunTagFilter | None = None,
    ) -> ByTag:
        answer = self._data.list_tensors(ctx, experiment_id=experiment_id, plugin_name=HPARAMS)
        means = {mean.name: [run.name for run in mean.runs] for mean in shown.means.values()}
        of_means = {name for names in means.values() for name in names}
        runs = self._scan.runs()

        def status(name: str) -> str | None:
            if name in shown.means:
                return shown.means[name].status
            run = runs.get(name)
            return run.status if run and run.files else None

        contents = {
            run: {tag: about.plugin_content for tag, about in tags.items()}
            for run, tags in answer.items()
            if run in of_means or shown.shows(run)
        }
        wanted = run_tag_filter or EVERYTHING
        return {
            run: {tag: _tensor_series(content) for tag, content in tags.items()}
            for run, tags in hparams_by_setting(contents, status, means).items()
            if wanted.runs is None or run in wanted.runs
        }


def _curves(
    shown: Shown, plugin_name: str, asked: Mapping[str, Any]
) -> Iterator[tuple[Mean, str, Sequence[tuple[int, float]]]]:
    """The curves of means that are asked for: mean, tag, points."""
    wanted = asked.get("run_tag_filter") or EVERYTHING
    if plugin_name != SCALARS:
        return
    for mean in shown.means.values():
        if wanted.runs is None or mean.name in wanted.runs:
            for tag, points in mean.curves.items():
                if wanted.tags is None or tag in wanted.tags:
                    yield mean, tag, points


def _with_charts(shown: Shown, plugin_name: str, asked: Mapping[str, Any]) -> Iterator[Mean]:
    """The mean, if it is asked for, that has the charts of all."""
    wanted = asked.get("run_tag_filter") or EVERYTHING
    mean = next(iter(shown.means.values()), None)
    if mean and plugin_name == CUSTOM_SCALARS and (wanted.runs is None or mean.name in wanted.runs):
        yield mean


def _some(points: Sequence[tuple[int, float]], n: int | None) -> Sequence[tuple[int, float]]:
    """At most `n` points, evenly, the last among them."""
    if n is None or len(points) <= n:
        return points
    last = len(points) - 1
    return [points[last - last * i // max(n - 1, 1)] for i in range(n)][::-1] if n else []


def _tensor_series(content: bytes, moved: float = 0.0) -> TensorTimeSeries:
    return TensorTimeSeries(
        max_step=0, max_wall_time=moved, plugin_content=content, description="", display_name=""
    )
