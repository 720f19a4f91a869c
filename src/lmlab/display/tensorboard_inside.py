"""What is used of TensorBoard beyond its public interfaces, here and nowhere else."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

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
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    content = plugin_data_pb2.HParamsPluginData(session_end_info=end)
    return _hparams(metadata.SESSION_END_INFO_TAG, content)


def _hparams(tag: str, content: Any) -> Summary:
    """The plugin reads nothing but metadata; the tensor that a summary must have is empty."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata

    about = metadata.create_summary_metadata(content)
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])


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
