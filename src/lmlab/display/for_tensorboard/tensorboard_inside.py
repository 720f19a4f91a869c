"""What is used of TensorBoard beyond its public interfaces, here and nowhere else."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

SCALARS, HPARAMS, CUSTOM_SCALARS = "scalars", "hparams", "custom_scalars"  # plugins
LAYOUT = "custom_scalars__config__"  # the tag of what Custom Scalars shows

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary


def hparams_columns(
    row: Mapping[str, str | float | None],
    shown_first: Iterable[str],
    metrics: Iterable[str],
    offered: Mapping[str, list[str]],
) -> Summary:
    """The columns of the HParams tab: the same for every run, since any may be the one whose
    columns TensorBoard takes.

    `offered` are, by column of text, the values that may be unticked beside the table. (The public
    `hparams_config_pb` does not tell which columns come first.)
    """
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    experiment = api_pb2.Experiment()
    for name, value in row.items():
        # TensorBoard puts what `differs` first, and shows the first five.
        info = experiment.hparam_infos.add(name=name, differs=name in shown_first)
        if isinstance(value, str):
            info.type = api_pb2.DATA_TYPE_STRING
            # What stands here may be unticked; the rest is always shown.
            known = offered.get(name, [])
            own = [value] if known and value not in known else []
            info.domain_discrete.extend([*known, *own])
        else:
            info.type = api_pb2.DATA_TYPE_FLOAT64
            info.domain_interval.min_value, info.domain_interval.max_value = 0.0, sys.float_info.max
    for tag in metrics:
        experiment.metric_infos.add(name=api_pb2.MetricName(tag=tag))
    content = plugin_data_pb2.HParamsPluginData(experiment=experiment)
    return _hparams(metadata.EXPERIMENT_TAG, content)


def hparams_row(row: Mapping[str, str | float | None], started: str) -> Summary:
    """The values of a run that began at an ISO time; None leaves a cell empty."""
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    values = {name: value for name, value in row.items() if value is not None}
    began = datetime.fromisoformat(started).timestamp()
    # Without a name of its own a row is called by the run's directory, as in every other tab.
    return hparams_pb(values, trial_id="", start_time_secs=began)


def hparams_end(succeeded: bool) -> Summary:
    """How a run ended. (TensorBoard writes this itself only where its callback for Keras does.)"""
    from tensorboard.plugins.hparams import metadata

    content = _ended("done" if succeeded else "failed", time.time())
    return _hparams(metadata.SESSION_END_INFO_TAG, content)


def _ended(status: str, when: float | None = None) -> Any:
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

    known = {"done": api_pb2.STATUS_SUCCESS, "pruned": api_pb2.STATUS_SUCCESS}
    known["running"] = api_pb2.STATUS_RUNNING
    end = plugin_data_pb2.SessionEndInfo(status=known.get(status, api_pb2.STATUS_FAILURE))
    if when is not None:
        end.end_time_secs = when
    return plugin_data_pb2.HParamsPluginData(session_end_info=end)


def hparams_by_setting(
    runs: Mapping[str, Mapping[str, bytes]],
    status: Callable[[str], str | None],
    means: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, bytes]]:
    """What the HParams tab reads of runs, by run and tag: a row for each of `means`, in place of
    those of the runs that it is of, and every row with the status of today.

    `status` gives that of a run, or of a mean, by its name; None where it is not known. A mean has
    the hyperparameters of a run, without its seed.
    """
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    begin, end = metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG
    rows = {run: dict(tags) for run, tags in runs.items()}
    for mean, of_runs in means.items():
        of_mean = None
        for run in of_runs:
            of_mean = rows.get(run, {}).pop(begin, None) or of_mean
        if of_mean is not None:
            about = metadata.parse_session_start_info_plugin_data(of_mean)
            if "seed" in about.hparams:
                del about.hparams["seed"]
            content = plugin_data_pb2.HParamsPluginData(session_start_info=about)
            rows[mean] = {begin: _plugin_content(content)}
    contents: dict[str, bytes] = {}
    for run, tags in rows.items():
        if begin in tags and (now := status(run)) is not None:
            if now not in contents:
                contents[now] = _plugin_content(_ended(now))
            tags[end] = contents[now]
    return rows


def _plugin_content(data: Any) -> bytes:
    from tensorboard.plugins.hparams import metadata

    content: bytes = metadata.create_summary_metadata(data).plugin_data.content
    return content


def band_charts(title: str, bands: Mapping[str, tuple[str, str]]) -> bytes:
    """A category of the Custom Scalars tab: of each of `bands`, by its tag, a chart with a band
    between two others, the lower first."""
    from google.protobuf.json_format import ParseDict
    from tensorboard.plugins.custom_scalar import layout_pb2

    charts = []
    for tag, (low, high) in bands.items():
        series = {"value": tag, "lower": low, "upper": high}
        charts.append({"title": tag, "margin": {"series": [series]}})
    layout = ParseDict({"category": [{"title": title, "chart": charts}]}, layout_pb2.Layout())
    serialized: bytes = layout.SerializeToString()
    return serialized


def _hparams(tag: str, content: Any) -> Summary:
    """The plugin reads nothing but metadata; the tensor that a summary must have is empty."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata

    about = metadata.create_summary_metadata(content)
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])


def program(plugins: list[Any], shown: Callable[[Any], Any] | None = None) -> Any:
    """TensorBoard, not yet configured, which scans for a port.

    `shown` is given its data provider, and gives the one that all tabs read. (A plugin has no way
    to do that: each is given TensorBoard's own when it is loaded.)
    """
    from tensorboard.program import TensorBoard, with_port_scanning

    class Program(TensorBoard):
        def _make_data_provider(self) -> tuple[Any, Any]:
            data, multiplexer = super()._make_data_provider()
            return (data if shown is None else shown(data)), multiplexer

    return Program(plugins, server_class=with_port_scanning(server()))


def server() -> type:
    """TensorBoard's server, which says that a port is taken instead of leaving the process.

    It asks first whether something answers at the port. Where nothing answers and the port is taken
    all the same, since another board is just about to begin there, werkzeug exits.
    """
    from tensorboard.program import (
        TensorBoardPortInUseError,
        TensorBoardServerException,
        WerkzeugServer,
    )

    class Server(WerkzeugServer):
        def __init__(self, wsgi_app: Any, flags: Any):
            try:
                super().__init__(wsgi_app, flags)
            except SystemExit as left:
                cause = left.__context__
                taken = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
                kind = TensorBoardPortInUseError if taken else TensorBoardServerException
                raise kind(f"port {flags.port}: {cause}") from cause

    return Server


def plugins(first: Any) -> list[Any]:
    """TensorBoard's plugins and those of other packages, in the order of their tabs: after its
    core, which has none, stands `first`, once."""
    from tensorboard.default import get_plugins

    core, *others = get_plugins()
    if first is None:
        return [core, *others]
    name = first.plugin_name
    return [core, first, *(p for p in others if getattr(p, "plugin_name", None) != name)]
